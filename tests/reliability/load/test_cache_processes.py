"""Processes on one cache folder: whoever comes gets a whole folder, whatever happens to the others."""

import time
from pathlib import Path
from typing import Any

from sae_lens_ext.embedded.cache import cached_folder
from sae_lens_ext.embedded.manifest import fault
from tests.reliability.load.processes import TIMEOUT, Held, at_once, fork

CONTENT = {"config.json": b'{"a": 1}', "weights.bin": bytes(range(256)) * 64}


def build(folder: Path) -> None:
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)


def whole(folder: Path) -> bool:
    return all((folder / name).read_bytes() == content for name, content in CONTENT.items())


def test_processes_that_come_at_once_build_once(tmp_path: Path) -> None:
    def come(i: int) -> bool:
        def noting(folder: Path) -> None:
            (tmp_path / f"built by {i}").touch()
            build(folder)

        return whole(cached_folder("key", noting, tmp_path / "root"))

    assert at_once(8, come, tmp_path / "said") == ["True"] * 8
    assert len(list(tmp_path.glob("built by *"))) == 1


def test_processes_that_wait_go_on_when_the_builder_is_killed(tmp_path: Path) -> None:
    root = tmp_path / "root"

    def build_half(stay: Any) -> None:
        def half(folder: Path) -> None:
            (folder / "config.json").write_bytes(CONTENT["config.json"])
            stay()

        cached_folder("key", half, root)

    held = Held(build_half)
    waiting = [fork(lambda: cached_folder("key", build, root)) for _ in range(4)]
    time.sleep(0.2)
    assert all(process.is_alive() for process in waiting)
    assert not (root / "key").exists()
    held.kill()
    for process in waiting:
        process.join(TIMEOUT)
        assert process.exitcode == 0
    assert whole(root / "key")
    assert [path.name for path in root.iterdir() if "partial" in path.name] == []


def test_readers_get_whole_folders_while_it_is_damaged_and_built_anew(tmp_path: Path) -> None:
    root, rounds = tmp_path / "root", 30
    key = cached_folder("key", build, root)

    def come(i: int) -> bool:
        for _ in range(rounds):
            if i == 0:
                (key / "weights.bin").write_bytes(b"damaged")
            folder = cached_folder("key", build, root)
            assert folder == key
        return True

    assert at_once(4, come, tmp_path / "said") == ["True"] * 4
    cached_folder("key", build, root)
    assert fault(key, "key") is None and whole(key)

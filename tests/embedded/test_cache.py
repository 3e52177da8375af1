import errno
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.embedded import CacheError, cache_root
from sae_lens_ext.embedded.cache import cached_folder
from sae_lens_ext.embedded.manifest import MANIFEST, fault, fingerprint, write_manifest

from .isolated import finish, start

CONTENT = {"config.json": b'{"a": 1}', "weights.bin": bytes(range(256)) * 4}


class Builder:
    """Writes a tiny folder and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        for name, content in CONTENT.items():
            (folder / name).write_bytes(content)


def assert_good(folder: Path) -> None:
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MANIFEST} == CONTENT
    assert [p.name for p in folder.parent.iterdir() if "partial" in p.name] == []


@pytest.fixture
def build() -> Builder:
    return Builder()


@pytest.fixture
def folder(tmp_path: Path, build: Builder) -> Path:
    return cached_folder("key", build, tmp_path / "root")


def test_cached_folder_builds_once_and_then_only_checks(folder: Path, build: Builder):
    assert cached_folder("key", build, folder.parent) == folder
    assert build.calls == 1
    assert_good(folder)


def test_cached_folder_builds_each_key_in_its_own_folder(folder: Path, build: Builder):
    other = cached_folder("other", build, folder.parent)
    assert other != folder
    assert build.calls == 2


def _truncate(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(CONTENT["weights.bin"][:-1])


def _change_one_byte(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"\xff" + CONTENT["weights.bin"][1:])


def _remove_file(folder: Path) -> None:
    (folder / "config.json").unlink()


def _add_file(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _add_folder(folder: Path) -> None:
    (folder / "onnx").mkdir()


def _remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _half_a_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


def _foreign_manifest(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "key": "another"}))


def _empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _a_file_in_its_place(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def _a_dangling_link_in_its_place(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "nowhere")


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _change_one_byte,
        _remove_file,
        _add_file,
        _add_folder,
        _remove_manifest,
        _half_a_manifest,
        _foreign_manifest,
        _empty_folder,
        _a_file_in_its_place,
        _a_dangling_link_in_its_place,
    ],
)
def test_cached_folder_notices_damage_and_builds_anew(damage, folder: Path, build: Builder):
    damage(folder)
    assert fault(folder, "key") is not None
    assert cached_folder("key", build, folder.parent) == folder
    assert build.calls == 2
    assert_good(folder)


def test_cached_folder_leaves_hidden_files_alone(folder: Path, build: Builder):
    (folder / ".DS_Store").write_text("a file browser was here")
    cached_folder("key", build, folder.parent)
    assert build.calls == 1


@given(content=st.binary(min_size=1, max_size=64), data=st.data())
def test_manifest_notices_every_truncation_and_every_changed_byte(content: bytes, data: st.DataObject):
    at = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "file"
        file.write_bytes(content)
        write_manifest(folder, "key")
        assert fault(folder, "key") is None
        file.write_bytes(content[:at])
        assert fault(folder, "key") is not None
        file.write_bytes(content[:at] + bytes([content[at] ^ other]) + content[at + 1 :])
        assert fault(folder, "key") is not None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_foreign_json_passes_for_a_manifest(content: object):
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / MANIFEST).write_text(json.dumps(content))
        assert fault(Path(name), "key") is not None


def test_fingerprint_of_a_large_file_notices_header_end_and_holes(tmp_path: Path):
    size = 9 * 2**20
    file = tmp_path / "large"
    file.write_bytes(b"\x01" * size)
    good = fingerprint(file)

    def changed(offset: int, content: bytes) -> str:
        file.write_bytes(b"\x01" * size)
        with file.open("rb+") as opened:
            opened.seek(offset)
            opened.write(content)
        return fingerprint(file)

    assert changed(0, b"\x02") != good
    assert changed(size - 1, b"\x02") != good
    assert changed(size, b"\x01") != good
    assert changed(2 * 2**20, b"\x00" * 2**21) != good
    assert changed(0, b"\x01") == good


def test_failed_build_passes_its_error_on_and_leaves_nothing(tmp_path: Path, build: Builder):
    def fail(folder: Path) -> None:
        build(folder)
        raise ValueError("the source is damaged")

    with pytest.raises(ValueError, match="the source is damaged"):
        cached_folder("key", fail, tmp_path)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []
    assert_good(cached_folder("key", build, tmp_path))


def test_full_disk_is_an_error_that_names_the_folder_and_the_remedy(tmp_path: Path):
    def fill(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CacheError) as caught:
        cached_folder("key", fill, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "key") in message
    assert "No space left on device" in message
    assert "SAE_LENS_EXT_CACHE" in message
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_unwritable_root_is_an_error_that_names_the_folder(tmp_path: Path, build: Builder):
    (tmp_path / "file").write_text("no folder can be made below a file")
    with pytest.raises(CacheError, match="could not be built") as caught:
        cached_folder("key", build, tmp_path / "file" / "root")
    assert str(tmp_path / "file" / "root" / "key") in str(caught.value)
    assert build.calls == 0


def test_complete_folder_needs_no_lock(folder: Path, build: Builder, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("sae_lens_ext.embedded.cache._build_locked", refuse)
    assert cached_folder("key", build, folder.parent) == folder


SLOW_BUILD = """
import os, sys, time
from pathlib import Path
from sae_lens_ext.embedded.cache import cached_folder

root, log, die = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "die"

def build(folder):
    with log.open("a") as file:
        file.write("built\\n")
    (folder / "config.json").write_bytes(b'{"a": 1}')
    time.sleep(0.5)
    if die:
        os._exit(0)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 4)

folder = cached_folder("key", build, root)
print(len((folder / "weights.bin").read_bytes()))
"""


def test_concurrent_processes_build_once_and_all_see_a_whole_folder(tmp_path: Path):
    processes = [start(SLOW_BUILD, tmp_path / "root", tmp_path / "log", "live") for _ in range(4)]
    assert [finish(process) for process in processes] == ["1024"] * 4
    assert (tmp_path / "log").read_text() == "built\n"
    assert_good(tmp_path / "root" / "key")


def test_process_that_dies_while_building_neither_blocks_nor_breaks_the_next(tmp_path: Path, build: Builder):
    root = tmp_path / "root"
    assert finish(start(SLOW_BUILD, root, tmp_path / "log", "die")) == ""
    assert [p for p in root.iterdir() if "partial" in p.name] != []
    assert_good(cached_folder("key", build, root))


def test_cache_root_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.delenv("SAE_LENS_EXT_CACHE")
    assert cache_root() == tmp_path / "xdg" / "sae_lens_ext"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "sae_lens_ext"

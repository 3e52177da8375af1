"""Files and folders that are whole or not there."""

import errno
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sae_lens_ext.files
from sae_lens_ext import asides
from sae_lens_ext.asides import new_aside
from sae_lens_ext.files import whole_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "64") as aside:
        (aside / "a").write_text("1")
        assert not (tmp_path / "64").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["64"]
    assert (tmp_path / "64" / "a").read_text() == "1"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "64").mkdir()
    (tmp_path / "64" / "a").write_text("old")
    with pytest.raises(OSError, match="full"), whole_folder(tmp_path / "64") as aside:
        (aside / "a").write_text("new")
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["64"]
    assert (tmp_path / "64" / "a").read_text() == "old"


def left_by(process: Any, path: Path, machine: str | None = None) -> Path:
    """Give the name aside that a process would have written `path` under."""
    name = new_aside(path).name.replace(f"-{os.getpid()}-", f"-{process}-")
    return path.with_name(name if machine is None else name.replace(machine_name(), machine))


def machine_name() -> str:
    return new_aside(Path("a")).name.split(".")[2].split("-")[0]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_process_that_died_left_aside_goes_with_the_next_write(tmp_path: Path) -> None:
    for path in (tmp_path / "a.json", tmp_path / "64"):
        left_by(dead_process(), path).mkdir()
        (tmp_path / f"{left_by(dead_process(), path).name}").write_text("torn")
    write_whole(tmp_path / "a.json", "{}")
    with whole_folder(tmp_path / "64") as aside:
        assert list(aside.iterdir()) == []
    assert names(tmp_path) == ["64", "a.json"]


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    living, far, given_up = (
        left_by(os.getppid(), tmp_path / "a.json"),
        left_by(dead_process(), tmp_path / "a.json", "far"),
        left_by(dead_process(), tmp_path / "a.json", "farther"),
    )
    for path in (living, far, given_up):
        path.write_text("begun")
    os.utime(given_up, (time.time() - 2 * 86_400,) * 2)
    write_whole(tmp_path / "a.json", "{}")
    assert names(tmp_path) == sorted([living.name, far.name, "a.json"])


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(sae_lens_ext.files, "exchange", lambda *_: False)
    for text in ("old", "new"):
        with whole_folder(tmp_path / "64") as aside:
            (aside / text).write_text(text)
    assert names(tmp_path) == ["64"]
    assert names(tmp_path / "64") == ["new"]


def test_what_else_a_folder_holds_is_kept_where_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "sae").mkdir()
    for name in ("weights", "mine"):
        (tmp_path / "sae" / name).write_text("old")
    with whole_folder(tmp_path / "sae", keep_others=True) as aside:
        (aside / "weights").write_text("new")
    assert names(tmp_path) == ["sae"]
    assert {path.name: path.read_text() for path in (tmp_path / "sae").iterdir()} == {
        "weights": "new",
        "mine": "old",
    }


def test_a_folder_within_one_that_is_written_aside_is_written_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "64") as aside, whole_folder(aside / "sae") as within:
        assert within == aside / "sae"
        (within / "a").write_text("1")
    assert (tmp_path / "64" / "sae" / "a").read_text() == "1"


@pytest.mark.parametrize("keep_others", [True, False])
@pytest.mark.parametrize("through", ["a link", "the folder itself"])
def test_a_folder_that_something_points_at_stays_the_same_folder(
    tmp_path: Path, through: str, keep_others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "weights").write_text("old")
    (tmp_path / "sae" / "mine").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "sae")
    monkeypatch.chdir(tmp_path / "sae")
    with whole_folder(
        Path() if through == "the folder itself" else tmp_path / "link", keep_others=keep_others
    ) as aside:
        (aside / "weights").write_text("new")
    assert Path("weights").read_text() == "new"
    assert Path("mine").exists() == keep_others
    assert names(tmp_path) == ["link", "sae"]
    assert (tmp_path / "link").is_symlink()


def test_where_a_disk_is_mounted_the_folder_is_written_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "weights").write_text("old")
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "disk")
    with whole_folder(tmp_path / "disk", keep_others=True) as aside:
        assert aside.parent == tmp_path / "disk"
        (aside / "weights").write_text("new")
    assert names(tmp_path / "disk") == ["weights"]
    assert (tmp_path / "disk" / "weights").read_text() == "new"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_is_full_is_named_and_loses_nothing(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a.json", "old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if failing == "fsync" else (Path, "replace", full)))
    with pytest.raises(
        OSError, match=r"a\.json could not be written \(No space left on device\), and is as it was"
    ) as info:
        write_whole(tmp_path / "a.json", "new")
    assert info.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match=r"64 could not be written"), whole_folder(tmp_path / "64") as aside:
        (aside / "a").write_text("new")
    monkeypatch.undo()
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_what_a_library_cannot_write_is_named(tmp_path: Path, library: str) -> None:
    with pytest.raises(OSError, match="64 could not be written"), whole_folder(tmp_path / "64") as aside:
        if library == "torch":
            (aside / "full").symlink_to("/dev/full")
            torch.save({"a": torch.ones(10_000)}, aside / "full")
        else:
            save_file({"a": torch.ones(1)}, aside / "no" / "folder")
    assert names(tmp_path) == []


def test_another_error_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="^mine$"), whole_folder(tmp_path / "64"):
        raise RuntimeError("mine")


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("mine")
    with (
        pytest.raises(
            NotADirectoryError,
            match="results.csv is a file, where a folder should be written; it was left as it is",
        ),
        whole_folder(tmp_path / "results.csv", keep_others=True),
    ):
        pytest.fail("nothing is to be written")
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_what_a_process_of_the_same_id_left_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asides, "_numbers", itertools.count())
    left = new_aside(tmp_path / "64")
    left.mkdir()
    monkeypatch.setattr(asides, "_tokens", {})
    monkeypatch.setattr(asides, "_numbers", itertools.count())
    with whole_folder(tmp_path / "64") as aside:
        (aside / "a").write_text("1")
    assert names(tmp_path) == ["64"]


def test_where_the_parent_cannot_be_written_in_the_folder_is_written_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    with whole_folder(tmp_path / "mine", keep_others=True) as aside:
        assert aside.parent == tmp_path / "mine"
        (aside / "a").write_text("1")
    assert names(tmp_path / "mine") == ["a"]


def test_a_second_rename_that_fails_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with whole_folder(tmp_path / "64") as aside:
        (aside / "a").write_text("old")
    monkeypatch.setattr(sae_lens_ext.files, "exchange", lambda *_: False)
    replace = Path.replace

    def failing(path: Path, target: Path) -> Path:
        if path.name.endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="64 could not be written"), whole_folder(tmp_path / "64") as aside:
        (aside / "a").write_text("new")
    assert (tmp_path / "64" / "a").read_text() == "old"
    assert names(tmp_path) == ["64"]


def test_a_folder_that_a_crash_between_two_renames_took_away_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".64.before").mkdir()
    (tmp_path / ".64.before" / "mine").write_text("old")
    with whole_folder(tmp_path / "64", keep_others=True) as aside:
        (aside / "a").write_text("new")
    assert names(tmp_path / "64") == ["a", "mine"]


def test_files_of_others_survive_a_kill_between_any_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sae").mkdir()
    for name in ("weights", "cfg", "mine"):
        (tmp_path / "sae" / name).write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("one by one, the two could come apart"))
    with whole_folder(tmp_path / "sae", keep_others=True) as aside:
        for name in ("weights", "cfg"):
            (aside / name).write_text("new")
    assert {path.name: path.read_text() for path in (tmp_path / "sae").iterdir()} == {
        "weights": "new",
        "cfg": "new",
        "mine": "old",
    }


def test_access_rights_stay(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    write_whole(tmp_path / "a.json", "old")
    (tmp_path / "a.json").chmod(0o640)
    with whole_folder(tmp_path / "shared") as aside:
        (aside / "a").write_text("1")
    write_whole(tmp_path / "a.json", "new")
    assert (tmp_path / "shared").stat().st_mode & 0o7777 == 0o2775
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_what_is_no_file_is_written_to_and_not_replaced() -> None:
    write_whole("/dev/null", "text")
    assert Path("/dev/null").is_char_device()


def test_an_error_of_something_else_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="^no route to the host$"), whole_folder(tmp_path / "64"):
        raise OSError("no route to the host")
    with (
        pytest.raises(FileNotFoundError, match=r"No such file or directory: '/nowhere/else'"),
        whole_folder(tmp_path / "64"),
    ):
        Path("/nowhere/else").read_text()


def test_a_long_name_has_a_name_aside(tmp_path: Path) -> None:
    with whole_folder(tmp_path / ("a" * 240)) as aside:
        (aside / "a").write_text("1")
    assert names(tmp_path) == ["a" * 240]

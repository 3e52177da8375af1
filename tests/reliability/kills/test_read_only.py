"""Work in folders that may not be written in: the error names the path, and what was there before stays as it was."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.reliability.kills import world
from tests.reliability.kills.jobs import JOBS
from tests.reliability.kills.lives import live
from tests.reliability.kills.standing import problems, saved_tensors
from tests.reliability.kills.taking_up import in_peace, same

GIVEN_FOLDERS = ("pooling", "a report over an earlier one")
"""Jobs that save into a folder that they make themselves."""


@pytest.mark.parametrize("name", JOBS)
def test_a_read_only_folder_is_named_and_stays_as_it_was(name: str, tmp_path: Path) -> None:
    job, folder = JOBS[name], tmp_path / "run"
    peace = in_peace(job, tmp_path / "peace")
    live(job.work, folder, kill_at=2 * len(peace.events) // 3)
    before = _contents(folder)
    with _read_only(folder):
        error = live(job.work, folder, ordinary_user=True).error
    assert error is not None
    assert re.search(rf"{re.escape(str(folder))}\S* could not be written", error.strip().splitlines()[-1]), (
        error
    )
    assert _contents(folder) == before
    assert problems(folder) == []
    assert live(job.work, folder).error is None
    assert same(saved_tensors(folder), peace.tensors)


@pytest.mark.parametrize("name", [name for name in JOBS if name not in GIVEN_FOLDERS])
def test_a_folder_that_cannot_be_made_is_named(name: str, tmp_path: Path) -> None:
    world.make()
    (tmp_path / "parent").mkdir()
    with _read_only(tmp_path / "parent"):
        error = live(JOBS[name].work, tmp_path / "parent" / "run", ordinary_user=True).error
    assert error is not None
    assert re.search(
        rf"{re.escape(str(tmp_path))}/parent\S* could not be written", error.strip().splitlines()[-1]
    ), error
    assert _contents(tmp_path / "parent") == {}


@contextmanager
def _read_only(top: Path) -> Generator[None, None, None]:
    """Take the right to write away from a folder and all folders in it."""
    folders = [top, *(path for path in top.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


def _contents(top: Path) -> dict[str, bytes | None]:
    """Give everything below a folder, by its path; None for folders."""
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else None for path in top.rglob("*")
    }

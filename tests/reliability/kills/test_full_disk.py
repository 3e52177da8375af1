"""Work on a disk that is full: the error names the path, and what was there before stays and loads."""

import os
import random
import re
from pathlib import Path

import pytest
import torch

from tests.reliability.kills import world
from tests.reliability.kills.jobs import JOBS
from tests.reliability.kills.lives import live
from tests.reliability.kills.standing import problems, saved_tensors
from tests.reliability.kills.taking_up import in_peace, same

NAMES = ["one SAE: topk", "divided", "steering vectors", "language model with LIMe", "pooling"]
TENSORS = {".safetensors", ".pt"}
"""Files of tensors are as long in every run; logs are not, they tell seconds."""


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_named_and_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    job = JOBS[name]
    peace = in_peace(job, tmp_path / "peace")
    largest_tensors = max(
        path.stat().st_size for path in (tmp_path / "peace").rglob("*") if path.suffix in TENSORS
    )
    folder = tmp_path / "full"
    for largest in (16, largest_tensors // 2, largest_tensors - 1):
        error = live(job.work, folder, largest_file=largest).error
        assert error is not None
        assert re.search(rf"{re.escape(str(folder))}\S* could not be written", error), error
        assert problems(folder) == []
    assert live(job.work, folder).error is None  # there is room again
    assert same(saved_tensors(folder), peace.tensors)


@pytest.mark.parametrize("name", ["one SAE: topk", "divided"])
def test_the_end_of_a_trainers_state_that_torch_loses_is_missed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no room for the last bytes alone, torch.save writes what it can and says nothing."""
    job, folder = JOBS[name], tmp_path / "full"
    peace = in_peace(job, tmp_path / "peace")
    save = torch.save

    def losing_the_end(content: object, path: str) -> None:
        save(content, path)
        os.truncate(path, Path(path).stat().st_size - 7)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", losing_the_end)
        error = live(job.work, folder).error
    assert error is not None
    assert re.search(rf"{re.escape(str(folder))}\S* could not be written", error), error
    assert not [path for path in folder.rglob("trainer_state.pt") if ".part" not in str(path)]
    assert live(job.work, folder).error is None
    assert same(saved_tensors(folder), peace.tensors)


@pytest.mark.parametrize("name", ["one SAE: kron"])
def test_a_disk_that_fills_up_at_any_moment_is_named(name: str, tmp_path: Path) -> None:
    job, draw, folder = JOBS[name], random.Random(name), tmp_path / "full"
    peace = in_peace(job, tmp_path / "peace")
    for moment in sorted(draw.sample(range(1, len(peace.events) // 2), 3)):
        error = live(job.work, folder, full_from=moment).error
        assert error is not None
        assert str(folder) in error.strip().splitlines()[-1], error
        assert problems(folder) == []
    assert live(job.work, folder).error is None
    assert same(saved_tensors(folder), peace.tensors)


@pytest.mark.parametrize("name", ["one SAE: topk", "steering vectors", "pooling"])
def test_a_file_in_place_of_the_folder_is_named(name: str, tmp_path: Path) -> None:
    world.make()
    (tmp_path / "taken").write_text("precious")
    error = live(JOBS[name].work, tmp_path / "taken" / "run").error
    assert error is not None and str(tmp_path / "taken") in error.strip().splitlines()[-1], error
    assert (tmp_path / "taken").read_text() == "precious"

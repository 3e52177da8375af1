"""Work that is killed at chosen and at random moments goes on and ends with the same bits; the folder stays good all the while.

`benchmarks/reliability_kills.py` does the same fifty times at each stage.
"""

import random
from pathlib import Path

import pytest

from tests.reliability.kills.jobs import JOBS
from tests.reliability.kills.taking_up import in_peace, taken_up

QUICK = [
    "one SAE: topk, normalised",
    "one SAE: kron",
    "one SAE: residual",
    "seeds: both",
    "divided",
    "steering vectors",
    "language model with LIMe",
    "pooling",
    "a report over an earlier one",
]
"""What takes a second; the verbs take more and are killed in the benchmark."""


@pytest.mark.parametrize("name", QUICK)
def test_killed_work_goes_on_and_ends_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    job, draw = JOBS[name], random.Random(name)
    peace = in_peace(job, tmp_path / "peace")
    stages = job.stages(peace.events)
    moments = [draw.choice(places) for places in stages.values()]
    story = taken_up(job, peace, tmp_path / "killed", at=moments)
    assert story.troubles == []
    assert story.equal and story.kills > 0


def test_work_killed_at_random_times_ends_the_same_to_the_bit(tmp_path: Path) -> None:
    job, draw = JOBS["one SAE: topk"], random.Random(0)
    peace = in_peace(job, tmp_path / "peace")
    seconds = [draw.uniform(0, peace.seconds) for _ in range(3)]
    story = taken_up(job, peace, tmp_path / "killed", after=seconds)
    assert story.troubles == []
    assert story.equal


def test_work_killed_while_it_notes_its_plan_can_be_begun_again(tmp_path: Path) -> None:
    job = JOBS["steering vectors"]
    peace = in_peace(job, tmp_path / "peace")
    noting = [i for i, (_, what) in enumerate(peace.events) if "plan.json" in what]
    for moment in noting[:3]:
        story = taken_up(job, peace, tmp_path / str(moment), at=[moment])
        assert story.kills == 1 and story.troubles == [] and story.equal


def test_finished_work_killed_while_checkpoints_go_leaves_no_half_of_one(tmp_path: Path) -> None:
    job = JOBS["seeds: initialisation"]
    peace = in_peace(job, tmp_path / "peace")
    going = [i for i, (event, what) in enumerate(peace.events) if event == "os.remove" and "cfg.json" in what]
    story = taken_up(job, peace, tmp_path / "killed", at=[going[-1]])
    assert story.kills == 1 and story.troubles == [] and story.equal

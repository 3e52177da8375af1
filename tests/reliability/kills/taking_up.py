"""Killing work and taking it up again until it ends, and what is found on the way."""

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.reliability.kills import world
from tests.reliability.kills.job import Event, Job, places_checkpoint
from tests.reliability.kills.lives import live
from tests.reliability.kills.standing import problems, saved_tensors

_TRAINED = re.compile(r"(^|/)(trained/\w+\.json|trained\.safetensors|vectors\.safetensors)$")


@dataclass(frozen=True)
class Peace:
    """What a job does and gives when nothing happens to it."""

    events: list[Event]
    """What it did, in order."""
    tensors: dict[str, torch.Tensor]
    """What it saved, but for checkpoints."""
    seconds: float
    """How long it took."""


@dataclass
class Story:
    """What became of a job that was killed."""

    kills: int = 0
    """How often it was killed; a moment may come after the end."""
    with_checkpoint: int = 0
    """After how many of these a checkpoint must have been there: one had been written before."""
    troubles: list[str] = field(default_factory=list[str])
    """What did not load, a checkpoint that was gone, or what kept the job from going on."""
    equal: bool = False
    """Whether the job has ended, and saved what it saves in peace, to the bit."""


def in_peace(job: Job, folder: Path) -> Peace:
    """Let a job do its work; it must end well."""
    world.make()
    started = time.monotonic()
    life = live(job.work, folder)
    seconds = time.monotonic() - started
    if life.error is not None:
        raise RuntimeError(f"{job.name} does not end even in peace:\n{life.error}")
    return Peace(life.events, saved_tensors(folder), seconds)


def taken_up(
    job: Job, peace: Peace, folder: Path, *, at: Sequence[int] = (), after: Sequence[float] = ()
) -> Story:
    """Kill a job in each of its first lives, and let it end in the last.

    Args:
        job: The job.
        peace: What it does undisturbed.
        folder: A folder that does not exist yet; it is removed if all was well.
        at: The event at which it is killed in each life, or
        after: the seconds.
    """
    story, written = Story(), False
    for place, seconds in [*((place, None) for place in at), *((None, seconds) for seconds in after)]:
        life = live(job.work, folder, kill_at=place, kill_after=seconds)
        _note_error(story, life.error)
        if not life.killed:
            break
        story.kills += 1
        written = written or any(map(places_checkpoint, life.events[:-1]))
        story.troubles += problems(folder)
        if written:
            story.with_checkpoint += 1
            if not _holds_a_checkpoint(folder):
                story.troubles.append("The checkpoint that was there is gone.")
    _note_error(story, live(job.work, folder).error)
    story.troubles += problems(folder)
    story.equal = same(saved_tensors(folder), peace.tensors)
    if story.equal and not story.troubles:
        shutil.rmtree(folder)
    return story


def _note_error(story: Story, error: str | None) -> None:
    if error is not None:
        story.troubles.append(error)


def _holds_a_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint in its place, or what was trained with it; that they load is seen to by `problems`."""
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    return any(places_checkpoint(("os.rename", path)) or _TRAINED.search(path) for path in paths)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Whether tensors by name are equal to the bit."""
    return found.keys() == expected.keys() and all(
        torch.equal(found[name].view(torch.uint8), expected[name].view(torch.uint8)) for name in expected
    )

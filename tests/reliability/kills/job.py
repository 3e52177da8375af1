"""A piece of work that can be killed, and how its events are told apart."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.kills.watch import STEP

Work = Callable[[Path], None]
Event = tuple[str, str]
_CHECKPOINT = re.compile(r"(^|/)checkpoints/|(^|/)\.?checkpoint\.safetensors(\..*)?$")
_PLACED = re.compile(r"(^|/)checkpoints/[^/]+(/[^/]+)?/\d+$|(^|/)checkpoint\.safetensors$")


@dataclass(frozen=True)
class Job:
    """Work that goes on with what is in its folder when it is done again."""

    name: str
    """What it is."""
    work: Work
    """Does it in a folder."""
    steps: str = "mid-step"
    """What a kill within its steps counts as."""

    def stages(self, events: list[Event]) -> dict[str, list[int]]:
        """Sort the moments of a life that was not killed, by their places: start, steps, checkpoint being written, final save."""
        steps = [i for i, event in enumerate(events) if event[0] == STEP]
        checkpoints = [i for i, event in enumerate(events) if is_checkpoint(event)]
        first = min([*checkpoints, *steps, len(events)]) if steps else 0
        last = max(steps, default=-1)
        found = {
            "start": [*range(first), *[i for i in steps if i < min(checkpoints, default=0)]],
            self.steps: steps,
            "checkpoint being written": checkpoints,
            "final save": [i for i in range(last + 1, len(events)) if i not in checkpoints],
        }
        return {stage: places for stage, places in found.items() if places}


def is_checkpoint(event: Event) -> bool:
    """Whether an event is part of writing or removing a checkpoint."""
    return event[0] != STEP and _CHECKPOINT.search(event[1]) is not None


def places_checkpoint(event: Event) -> bool:
    """Whether a checkpoint is whole and in its place when the event has happened."""
    return event[0] == "os.rename" and _PLACED.search(event[1]) is not None

"""Kill trainings and analyses fifty times at each stage, take them up again, and compare every tensor with the undisturbed run's.

The jobs are tiny (a random model of two layers), so that a kill costs a second. A story is one folder: the job is killed in it several times, then left to
end. After each kill everything in the folder that looks saved is loaded.

    python benchmarks/reliability_kills.py
"""

import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from result import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.reliability.kills.job import Job
from tests.reliability.kills.jobs import JOBS
from tests.reliability.kills.taking_up import Peace, Story, in_peace, taken_up

KILLS, IN_A_STORY, SEED = 50, 3, 0
RANDOM = "random moments"


@dataclass
class Stage:
    """What came of the kills of one stage."""

    kills: int = 0
    with_checkpoint: int = 0
    stories: int = 0
    equal: int = 0
    troubles: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    def add(self, job: Job, story: Story, seconds: float) -> None:
        """Count a story."""
        self.kills += story.kills
        self.with_checkpoint += story.with_checkpoint
        self.stories += 1
        self.equal += story.equal
        self.troubles += [f"{job.name}: {trouble.strip().splitlines()[-1]}" for trouble in story.troubles]
        self.seconds += seconds

    def to_dict(self) -> dict[str, Any]:
        """Give the numbers, and what was wrong."""
        return {
            "kills": self.kills,
            "folders_in_which_a_checkpoint_had_been_written": self.with_checkpoint,
            "of_these_without_a_loadable_one": sum("checkpoint" in trouble for trouble in self.troubles),
            "runs_taken_up": self.stories,
            "equal_to_the_bit": self.equal,
            "troubles": self.troubles,
            "seconds": round(self.seconds, 1),
        }


def stage(name: str, jobs: list[tuple[Job, Peace]], draw: random.Random) -> Stage:
    """Kill the jobs in turn until there were enough kills."""
    found = Stage()
    for job, peace in _in_turn(jobs):
        places = job.stages(peace.events).get(name, [])
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            work: dict[str, Any] = (
                {"after": [draw.uniform(0, peace.seconds) for _ in range(IN_A_STORY)]}
                if name == RANDOM
                else {"at": [draw.choice(places) for _ in range(IN_A_STORY)]}
            )
            story = taken_up(job, peace, Path(folder) / "run", **work)
        found.add(job, story, time.monotonic() - started)
        if found.kills >= KILLS:
            return found
    raise RuntimeError(f"Nothing can be killed at the stage {name!r}.")


def _in_turn(jobs: list[tuple[Job, Peace]]) -> Iterator[tuple[Job, Peace]]:
    return iter(()) if not jobs else cycle(jobs)


def main() -> None:
    """Kill at every stage and write the result."""
    warnings.filterwarnings("ignore", category=UserWarning)
    draw = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(job, in_peace(job, Path(folder) / job.name)) for job in JOBS.values()]
    names = dict.fromkeys(name for job, peace in jobs for name in job.stages(peace.events))
    result: dict[str, Any] = {}
    for name in (*names, RANDOM):
        able = [(job, peace) for job, peace in jobs if name == RANDOM or name in job.stages(peace.events)]
        result[name] = stage(name, able, draw).to_dict()
        print(name, result[name], flush=True)
    moments = {
        job.name: {"moments": len(peace.events), "seconds": round(peace.seconds, 2)} for job, peace in jobs
    }
    write_result(__file__, {"jobs": moments, "stages": result})


if __name__ == "__main__":
    main()

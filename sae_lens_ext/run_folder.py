"""The folder of work that can be interrupted: whose it is, what is finished in it, where to go on."""

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sae_lens_ext.asides import is_aside, new_aside, remove
from sae_lens_ext.checkpoints import latest_checkpoint
from sae_lens_ext.files import is_json, make_folder, write_whole
from sae_lens_ext.folder_lock import is_of_lock, working_alone
from sae_lens_ext.json_file import read_json

PLAN_FILE = "plan.json"


class Plan(Protocol):
    """Everything that decides a run's numbers."""

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as JSON scalars, lists and mappings."""
        ...


class RunFolder:
    """A folder that holds one run of one plan.

    A run trains in one stage or several, each with checkpoints and a record of its own.

    Args:
        path: The folder; it need not exist yet, and is not made before `working`.
        plan: What is run in it: a mapping of JSON values, or what gives one.
        maker: What runs it, for messages, such as "`sae-lens-ext quickstart`".

    Raises:
        ValueError: The folder holds something else, or a run of another plan.
    """

    def __init__(self, path: Path, plan: Plan | Mapping[str, Any], maker: str) -> None:
        self.path, self.maker = path, maker
        self.plan = dict(plan) if isinstance(plan, Mapping) else plan.to_dict()
        self._require_ours()

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.path / "index.html"

    def checkpoints(self, stage: str) -> Path:
        """Where SAELens' checkpoints of a stage go."""
        return self.path / "checkpoints" / stage

    @contextmanager
    def working(self) -> Generator[None, None, None]:
        """Make the folder, note the plan in it, and keep other processes from working in it while the block lasts.

        To be entered once everything the plan names has been found, and before what an earlier run has left is looked at.

        Raises:
            FolderInUseError: Another process works in the folder. Nothing was written.
            ValueError: Another process has begun something else in the folder.
        """
        make_folder(self.path)
        with working_alone(self.path):
            self.claim()
            yield

    def claim(self) -> None:
        """Make the folder and note the plan in it, unless it has become that of another run."""
        self._require_ours()
        make_folder(self.path)
        write_json(self.path / PLAN_FILE, self.plan)

    def latest_checkpoint(self, stage: str, saes: Iterable[str] = (".",)) -> Path | None:
        """Find the last checkpoint of a stage that holds every SAE whole, or None.

        Args:
            stage: The stage.
            saes: Subfolders of the SAEs; a run of a single SAE has none.
        """
        return latest_checkpoint(self.checkpoints(stage) / "run", saes)

    @contextmanager
    def timed(self, stage: str) -> Generator[None, None, None]:
        """Add the seconds of the block to those that earlier runs have spent on a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            write_json(self._seconds_file(stage), self.training_seconds(stage) + time.monotonic() - started)

    def training_seconds(self, stage: str) -> float:
        """Seconds spent training in a stage so far, interrupted runs included."""
        path = self._seconds_file(stage)
        noted = read_json(path) if is_json(path) else 0.0
        return (
            noted if isinstance(noted, float) and noted >= 0 else 0.0
        )  # a damaged note costs the time, not the run

    def is_trained(self, stage: str) -> bool:
        """Whether the SAEs of a stage are complete."""
        return is_json(self._record_file(stage))

    def mark_trained(self, stage: str, record: dict[str, Any], *, keep_checkpoints: bool = False) -> None:
        """Note that the SAEs of a stage are complete, and drop its checkpoints, unless they are wanted for something else."""
        write_json(self._record_file(stage), record)
        if not keep_checkpoints and (checkpoints := self.checkpoints(stage)).is_dir():
            aside = new_aside(
                checkpoints
            )  # a crash must not leave half a checkpoint under a checkpoint's name
            checkpoints.replace(aside)
            remove(aside)

    def trained_record(self, stage: str) -> dict[str, Any]:
        """Give what `mark_trained` noted."""
        return read_json(self._record_file(stage))

    def _record_file(self, stage: str) -> Path:
        return self.path / "trained" / f"{stage}.json"

    def _seconds_file(self, stage: str) -> Path:
        return self.path / "training_seconds" / f"{stage}.json"

    def remembered(self, name: str, compute: Callable[[], Any]) -> Any:
        """Give a JSON result that a run before this one may have finished, or compute and keep it."""
        path = self.path / "measured" / f"{name}.json"
        if not is_json(path):
            write_json(path, compute())
        return read_json(path)

    def _require_ours(self) -> None:
        path, plan_file, plan = self.path, self.path / PLAN_FILE, self.plan
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file. Give a folder, or one that does not exist yet.")
        if not path.exists() or all(
            is_of_lock(inside) or _is_begun_plan(inside) for inside in path.iterdir()
        ):
            return
        saved = read_json(plan_file) if is_json(plan_file) else None
        if not isinstance(saved, dict) or saved.keys() != plan.keys():
            raise ValueError(
                f"{path} exists, is not empty and is not a folder of {self.maker} (its {PLAN_FILE} is missing or "
                "of another kind), so nothing was written there. Give another folder."
            )
        differing = [
            f"{key} was {saved[key]!r}, now {plan[key]!r}"
            for key in plan
            if json.dumps(saved[key]) != json.dumps(plan[key])  # in mappings, too, the order counts
        ]
        if differing:
            raise ValueError(
                f"{path} holds a run of {self.maker} with other settings ({'; '.join(differing)}), which was left as it is. "
                "Give another folder, or delete that one to start anew."
            )


def _is_begun_plan(path: Path) -> bool:
    """Tell whether a file is a plan whose writing a crash has cut short: there is nothing else in the folder yet."""
    return is_aside(path) and path.name.startswith(f".{PLAN_FILE}.")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either whole or not there."""
    make_folder(path.parent)
    write_whole(path, json.dumps(content, indent=1))

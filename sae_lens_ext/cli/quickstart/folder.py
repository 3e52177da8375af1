"""The quickstart's folder: whose it is, what is finished in it, where to go on."""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_lens.constants import RUNNER_CFG_FILENAME, SAE_WEIGHTS_FILENAME, TRAINER_STATE_FILENAME
from safetensors import SafetensorError, safe_open

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.quickstart.plan import Plan

PLAN_FILE = "plan.json"
TRAINED_FILE = "trained.json"
SECONDS_FILE = "training_seconds.json"


class RunFolder:
    """A folder that holds one run of one plan.

    Args:
        path: The folder; it need not exist yet, and is not made before `claim`.
        plan: What is run in it.

    Raises:
        CommandError: The folder holds something else, or a run of another plan.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        self._require_ours()

    @property
    def saes(self) -> Path:
        """Where the trained SAEs are saved, a subfolder each."""
        return self.path / "saes"

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.path / "index.html"

    @property
    def checkpoints(self) -> Path:
        """Where SAELens' checkpoints go while training."""
        return self.path / "checkpoints"

    def claim(self) -> None:
        """Make the folder and note the plan in it, once everything the plan names has been found."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / PLAN_FILE, self.plan.to_dict())

    def latest_checkpoint(self, names: Iterable[str]) -> Path | None:
        """Find the last checkpoint that holds every SAE of `names` whole, or None."""
        folders = [folder for folder in self.checkpoints.glob("run/*/") if _tokens(folder) > 0]
        for folder in sorted(folders, key=_tokens, reverse=True):
            if _is_json(folder / RUNNER_CFG_FILENAME) and all(_is_whole(folder / name) for name in names):
                return folder
        return None

    @contextmanager
    def timed(self) -> Generator[None, None, None]:
        """Add the seconds of the block to those that earlier runs have spent training."""
        started = time.monotonic()
        try:
            yield
        finally:
            write_json(self.path / SECONDS_FILE, self.training_seconds() + time.monotonic() - started)

    def training_seconds(self) -> float:
        """Seconds spent training so far, interrupted runs included."""
        path = self.path / SECONDS_FILE
        return json.loads(path.read_text()) if _is_json(path) else 0.0

    @property
    def is_trained(self) -> bool:
        """Whether the SAEs in `saes` are complete."""
        return _is_json(self.path / TRAINED_FILE)

    def mark_trained(self, record: dict[str, Any]) -> None:
        """Note that the SAEs are complete, and drop the checkpoints, which are needed no more."""
        write_json(self.path / TRAINED_FILE, record)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def trained_record(self) -> dict[str, Any]:
        """Give what `mark_trained` noted."""
        return json.loads((self.path / TRAINED_FILE).read_text())

    def remembered(self, name: str, compute: Callable[[], Any]) -> Any:
        """Give a JSON result that a run before this one may have finished, or compute and keep it."""
        path = self.path / "measured" / f"{name}.json"
        if not _is_json(path):
            path.parent.mkdir(exist_ok=True)
            write_json(path, compute())
        return json.loads(path.read_text())

    def _require_ours(self) -> None:
        path, plan_file, plan = self.path, self.path / PLAN_FILE, self.plan.to_dict()
        if path.exists() and not path.is_dir():
            raise CommandError(f"--out {path} is a file. Give a folder, or one that does not exist yet.")
        if not path.exists() or not any(path.iterdir()):
            return
        saved = json.loads(plan_file.read_text()) if _is_json(plan_file) else None
        if not isinstance(saved, dict) or saved.keys() != plan.keys():
            raise CommandError(
                f"--out {path} exists, is not empty and is not a folder of this quickstart (its {PLAN_FILE} is missing or "
                "of another kind), so nothing was written there. Give another folder."
            )
        differing = [
            f"{key} was {saved[key]!r}, now {plan[key]!r}" for key in plan if saved[key] != plan[key]
        ]
        if differing:
            raise CommandError(
                f"--out {path} holds a quickstart with other settings ({'; '.join(differing)}), which was left as it is. "
                "Give another folder, or delete that one to start anew."
            )


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either whole or not there."""
    aside = path.with_suffix(".json.part")
    with aside.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True


def _tokens(checkpoint: Path) -> int:
    """The number of tokens that SAELens names a checkpoint by; −1 for another folder."""
    return int(checkpoint.name) if checkpoint.name.isdigit() else -1


def _is_whole(sae_checkpoint: Path) -> bool:
    """Whether weights and trainer state were both written to their ends: each file's index can be read."""
    try:
        with safe_open(sae_checkpoint / SAE_WEIGHTS_FILENAME, framework="pt"):
            return zipfile.is_zipfile(sae_checkpoint / TRAINER_STATE_FILENAME)
    except (OSError, SafetensorError):
        return False

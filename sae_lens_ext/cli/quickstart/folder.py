"""The quickstart's folder: whose it is, what is finished in it, where to go on."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae_lens.constants import RUNNER_CFG_FILENAME, TRAINER_STATE_FILENAME

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.quickstart.plan import Plan

PLAN_FILE = "plan.json"
TRAINED_FILE = "trained.json"


class RunFolder:
    """A folder that holds one run of one plan.

    Args:
        path: The folder; made if it does not exist.
        plan: What is run in it.

    Raises:
        CommandError: The folder holds something else, or a run of another plan.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self._claim(plan)

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

    def latest_checkpoint(self) -> Path | None:
        """Find the last checkpoint that was written to its end, or None."""
        # SAELens writes the runner's configuration last of all.
        finished = [
            folder
            for folder in self.checkpoints.glob("run/*/")
            if _is_json(folder / RUNNER_CFG_FILENAME) and any(folder.glob(f"*/{TRAINER_STATE_FILENAME}"))
        ]
        return max(finished, key=lambda folder: int(folder.name.rpartition("_")[2]), default=None)

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

    def _claim(self, plan: Plan) -> None:
        path, plan_file = self.path, self.path / PLAN_FILE
        if path.exists() and not path.is_dir():
            raise CommandError(f"--out {path} is a file. Give a folder, or one that does not exist yet.")
        if not plan_file.exists():
            if path.exists() and any(path.iterdir()):
                raise CommandError(
                    f"--out {path} exists, is not empty and is not a quickstart's folder (it holds no {PLAN_FILE}), so "
                    "nothing was written there. Give another folder."
                )
            path.mkdir(parents=True, exist_ok=True)
            write_json(plan_file, plan.to_dict())
        saved = json.loads(plan_file.read_text()) if _is_json(plan_file) else None
        if saved != plan.to_dict():
            differing = sorted(key for key in plan.to_dict() if not saved or saved.get(key) != plan.to_dict()[key])
            raise CommandError(
                f"--out {path} holds a quickstart with other settings ({', '.join(differing)} differ), which was left "
                "as it is. Give another folder, or delete that one to start anew."
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

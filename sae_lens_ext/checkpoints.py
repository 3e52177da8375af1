"""Checkpoints as SAELens writes them, and the last whole one of them."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import RUNNER_CFG_FILENAME, SAE_WEIGHTS_FILENAME, TRAINER_STATE_FILENAME
from safetensors import SafetensorError, safe_open

from sae_lens_ext.checksum import has_changed
from sae_lens_ext.files import is_json
from sae_lens_ext.json_file import require_file


def latest_checkpoint(folder: Path, saes: Iterable[str] = (".",)) -> Path | None:
    """Find the last checkpoint that holds every SAE whole, or None.

    Args:
        folder: Where checkpoints are, each in a folder named by its tokens.
        saes: Subfolders of the SAEs; a run of a single SAE has none.
    """
    found = [path for path in folder.glob("*/") if path.name.isdigit() and int(path.name) > 0]
    for checkpoint in sorted(found, key=lambda path: int(path.name), reverse=True):
        written = is_json(checkpoint / RUNNER_CFG_FILENAME) and all(
            _is_whole(checkpoint / name) for name in saes
        )
        if written and not has_changed(checkpoint):
            return checkpoint
    return None


def tokens_trained(checkpoint: Path) -> int:
    """Read from a checkpoint of one SAE how many tokens it was trained on; its tensors are not read.

    Raises:
        FileNotFoundError: It has no state of the trainer.
        ValueError: The state is damaged.
    """
    path = checkpoint / TRAINER_STATE_FILENAME
    remedy = "Restore the checkpoint, or delete its folder to go on from an earlier one."
    require_file(path, remedy)
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        n: Any = state["n_training_samples"]
        if not isinstance(n, int):
            raise ValueError(f"its n_training_samples is {n!r:.80}")
    except Exception as error:  # of a damaged file the unpickler raises whatever it comes upon
        raise ValueError(
            f"{path} is no state of SAELens' trainer, or damaged ({type(error).__name__}). {remedy}"
        ) from error
    return n


def _is_whole(sae_checkpoint: Path) -> bool:
    """Whether weights and trainer state were both written to their ends: each file's index can be read."""
    try:
        with safe_open(sae_checkpoint / SAE_WEIGHTS_FILENAME, framework="pt"):
            return zipfile.is_zipfile(sae_checkpoint / TRAINER_STATE_FILENAME)
    except (OSError, SafetensorError):
        return False

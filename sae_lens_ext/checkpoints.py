"""Checkpoints as SAELens writes them, and the last whole one of them."""

import errno
import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import (
    ACTIVATION_SCALER_CFG_FILENAME,
    RUNNER_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    TRAINER_STATE_FILENAME,
)
from safetensors import SafetensorError, safe_open

from sae_lens_ext.architectures.loading import require_readable_training_save
from sae_lens_ext.checksum import CHECKSUMS_FILE, has_changed, write_checksums
from sae_lens_ext.files import is_json
from sae_lens_ext.json_file import require_file

_REMEDY = "Restore the checkpoint, or go on from another one."
_STATE_KEYS = {
    "act_freq_scores",
    "coefficient_schedulers",
    "lr_scheduler",
    "n_forward_passes_since_fired",
    "n_frac_active_samples",
    "n_training_samples",
    "n_training_steps",
    "optimizer",
    "started_fine_tuning",
}
_logger = logging.getLogger(__name__)


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
        _logger.warning(
            "The checkpoint %s is not whole, or not as it was saved, and is passed over: an earlier one is taken if there is one, else the training begins anew.",
            checkpoint,
        )
    return None


def seal_checkpoint(folder: Path) -> None:
    """Note the checksums of a checkpoint that has just been written, if all of it has.

    `torch.save` says nothing where a disk has no room for the last bytes of a file.

    Args:
        folder: The checkpoint.

    Raises:
        OSError: The end of a trainer's state is missing.
    """
    for state in folder.rglob(TRAINER_STATE_FILENAME):
        if not zipfile.is_zipfile(state):
            raise OSError(errno.ENOSPC, f"the end of {TRAINER_STATE_FILENAME} did not reach the disk")
    write_checksums(folder)


def require_checkpoint(checkpoint: Path, saes: Iterable[str] = (".",)) -> None:
    """Look at a checkpoint that training shall go on from, before anything dear is done.

    Args:
        checkpoint: Its folder, which this package or SAELens has written.
        saes: Subfolders of the SAEs; a run of a single SAE has none.

    Raises:
        FileNotFoundError: The folder or a file in it is missing.
        ValueError: A file is damaged or another than was saved. SAELens' own checkpoints have no checksums: in these a changed number cannot be told.
    """
    for name in saes:
        folder = checkpoint / name
        require_readable_training_save(folder)
        missing = sorted(_STATE_KEYS - _state(folder).keys())
        if missing:
            raise ValueError(f"{folder / TRAINER_STATE_FILENAME} holds no {', '.join(missing)}. {_REMEDY}")
        scaler = folder / ACTIVATION_SCALER_CFG_FILENAME
        require_file(scaler, _REMEDY)
        if not is_json(scaler):
            raise ValueError(f"{scaler} is not JSON. {_REMEDY}")
    if has_changed(checkpoint):
        raise ValueError(
            f"The checkpoint {checkpoint} holds other bytes than were saved, or has lost a file: its {CHECKSUMS_FILE} says so. {_REMEDY}"
        )


def tokens_trained(checkpoint: Path) -> int:
    """Read from a checkpoint of one SAE how many tokens it was trained on; its tensors are not read.

    Raises:
        FileNotFoundError: It has no state of the trainer.
        ValueError: The state is damaged.
    """
    n = _state(checkpoint).get("n_training_samples")
    if not isinstance(n, int):
        raise ValueError(
            f"{checkpoint / TRAINER_STATE_FILENAME} is damaged: its n_training_samples is {n!r:.80}. {_REMEDY}"
        )
    return n


def _state(checkpoint: Path) -> dict[str, Any]:
    """Read the state of SAELens' trainer, its tensors left on the disk."""
    path = checkpoint / TRAINER_STATE_FILENAME
    require_file(path, _REMEDY)
    try:
        state: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds {type(state).__name__}")
    except Exception as error:  # of a damaged file the unpickler raises whatever it comes upon
        raise ValueError(
            f"{path} is no state of SAELens' trainer, or damaged ({type(error).__name__}). {_REMEDY}"
        ) from error
    return state


def _is_whole(sae_checkpoint: Path) -> bool:
    """Whether weights and trainer state were both written to their ends: each file's index can be read."""
    try:
        with safe_open(sae_checkpoint / SAE_WEIGHTS_FILENAME, framework="pt"):
            return zipfile.is_zipfile(sae_checkpoint / TRAINER_STATE_FILENAME)
    except (OSError, SafetensorError):
        return False

"""Checkpoints as SAELens writes them: folders that are whole or not there, and the last of them."""

import os
import shutil
import zipfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import torch
from sae_lens.constants import RUNNER_CFG_FILENAME, SAE_WEIGHTS_FILENAME, TRAINER_STATE_FILENAME
from safetensors import SafetensorError, safe_open

from sae_lens_ext.files import is_json


def latest_checkpoint(folder: Path, saes: Iterable[str] = (".",)) -> Path | None:
    """Find the last checkpoint that holds every SAE whole, or None.

    Args:
        folder: Where checkpoints are, each in a folder named by its tokens.
        saes: Subfolders of the SAEs; a run of a single SAE has none.
    """
    found = [path for path in folder.glob("*/") if path.name.isdigit() and int(path.name) > 0]
    for checkpoint in sorted(found, key=lambda path: int(path.name), reverse=True):
        if is_json(checkpoint / RUNNER_CFG_FILENAME) and all(_is_whole(checkpoint / name) for name in saes):
            return checkpoint
    return None


def tokens_trained(checkpoint: Path) -> int:
    """Read from a checkpoint of one SAE how many tokens it was trained on; its tensors are not read."""
    state = torch.load(checkpoint / TRAINER_STATE_FILENAME, map_location="cpu", mmap=True, weights_only=True)
    return state["n_training_samples"]


@contextmanager
def whole_folder(path: Path) -> Generator[Path, None, None]:
    """Give a folder beside `path` to write into, which takes its place when the block has ended well.

    A write that fails, or a crash, leaves what was there before.
    """
    aside = path.with_name(f".{path.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # the disk may be full
        raise
    for file in aside.rglob("*"):
        if file.is_file():
            _to_disk(file)
    shutil.rmtree(path, ignore_errors=True)
    aside.replace(path)


def _to_disk(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_whole(sae_checkpoint: Path) -> bool:
    """Whether weights and trainer state were both written to their ends: each file's index can be read."""
    try:
        with safe_open(sae_checkpoint / SAE_WEIGHTS_FILENAME, framework="pt"):
            return zipfile.is_zipfile(sae_checkpoint / TRAINER_STATE_FILENAME)
    except (OSError, SafetensorError):
        return False

"""What must be true of a folder whenever the work in it is killed: whatever looks saved can be loaded."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from sae_lens import TrainingSAE
from safetensors import safe_open
from safetensors.torch import load_file

from sae_lens_ext import load_sae

WEIGHTS, SETTINGS, STATE = "sae_weights.safetensors", "cfg.json", "trainer_state.pt"


def problems(folder: Path) -> list[str]:
    """Say of everything in a folder that looks saved what keeps it from being loaded; nothing, if all is well.

    What is written aside, under a name that begins with a dot, does not look saved. The last line of a log may be torn.
    """
    return [f"{path.relative_to(folder)}: {trouble}" for path, trouble in _troubles(folder)]


def saved_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Give all tensors that are saved below a folder, but for checkpoints, by file and name."""
    return {
        f"{path.relative_to(folder)}/{name}": tensor
        for path in sorted(_saved(folder))
        if path.suffix == ".safetensors"
        and path.name != "checkpoint.safetensors"
        and "checkpoints" not in path.relative_to(folder).parts
        for name, tensor in load_file(path).items()
        if name != "history/seconds"  # how long each step took
    }


def load_checkpoint(checkpoint: Path, saes: tuple[str, ...] = (".",)) -> None:
    """Load everything a checkpoint of SAELens' form holds."""
    for name in saes:
        TrainingSAE.load_from_disk(checkpoint / name)
        torch.load(checkpoint / name / STATE, map_location="cpu", weights_only=True)


def _troubles(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in _saved(folder):
        try:
            _load(path)
        except Exception as error:  # whatever it is, a user would meet it
            yield path, f"{type(error).__name__}: {error}"


def _saved(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _load(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                file.get_tensor(name)
    if path.name in (WEIGHTS, SETTINGS):
        if (path.parent / STATE).exists() or "checkpoints" in path.parts:
            load_checkpoint(path.parent)
        else:
            load_sae(path.parent)

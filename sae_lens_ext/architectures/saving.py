"""Saving an SAE so that its folder is whole or as it was, and so that a reader can tell whether its bytes have changed since."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae_lens import SAE, TrainingSAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sae_lens_ext.checksum import CHECKSUM_KEY, json_checksum, noted_checksum, tensors_checksum
from sae_lens_ext.files import whole_folder

_CFG_CHECKSUM_KEY = f"{CHECKSUM_KEY}.cfg"

Paths = tuple[Path, Path]


def save_sae(sae: SAE[Any], path: str | Path) -> Paths:
    """Save an SAE, ours or SAELens', for inference: as `save_inference_model` does, but whole and sealed.

    The files are SAELens' own, which anybody loads without this package. What was in the folder is replaced when all is written and on the disk, and
    not before; files of other names stay. Checksums of the weights and of the configuration are put into the header of the weights' file, where
    `load_sae` finds them.

    Args:
        sae: The SAE; one in training is saved in its inference form.
        path: The folder; made if need be.

    Returns:
        The paths of the weights and of the configuration.

    Raises:
        OSError: It cannot be written; the message names the folder, which is as it was.
    """
    return save_whole(path, sae.save_inference_model if isinstance(sae, TrainingSAE) else sae.save_model)


def save_whole(path: str | Path, save: Callable[[Path], object]) -> Paths:
    """Let `save` write an SAE's two files, and what else it likes, into a folder aside, seal it and put it in its place.

    Args:
        path: The folder; what else it holds stays.
        save: Writes into the folder it is given.
    """
    path = Path(path)
    with whole_folder(path, keep_others=True) as aside:
        save(aside)
        seal(aside)
    return path / SAE_WEIGHTS_FILENAME, path / SAE_CFG_FILENAME


def seal(folder: Path) -> None:
    """Put checksums of weights and configuration into the header of weights that have just been written, and have none yet."""
    path = folder / SAE_WEIGHTS_FILENAME
    with safe_open(path, framework="pt") as file:
        if CHECKSUM_KEY in (file.metadata() or {}):
            return
    weights = load_file(path)
    cfg = json.loads((folder / SAE_CFG_FILENAME).read_text(encoding="utf-8"))
    header = {CHECKSUM_KEY: tensors_checksum(weights), _CFG_CHECKSUM_KEY: json_checksum(cfg)}
    sealed = path.with_name(f"{path.name}.sealed")  # the weights may be mapped from the file that is replaced
    save_file(weights, sealed, metadata=header)
    sealed.replace(path)


def require_seal(folder: Path) -> None:
    """Raise ValueError if weights or configuration are others than were sealed; without checksums nothing can be told, and nothing is.

    Args:
        folder: A saved SAE, whose two files can be read.
    """
    path = folder / SAE_WEIGHTS_FILENAME
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    noted = noted_checksum(header, CHECKSUM_KEY)
    if noted is not None and noted != tensors_checksum(load_file(path)):
        raise ValueError(
            f"{path} holds other weights than were saved: its checksum differs, so bytes have changed on the disk or on the way. Copy it again or restore it "
            "from a save."
        )
    noted = noted_checksum(header, _CFG_CHECKSUM_KEY)
    if noted is not None and noted != json_checksum(json.loads((folder / SAE_CFG_FILENAME).read_text())):
        raise ValueError(
            f"{folder / SAE_CFG_FILENAME} is not the configuration that {SAE_WEIGHTS_FILENAME} beside it was saved with: it was edited or damaged, or belongs "
            "to another SAE. Restore it from the save; if the change is meant, load it with SAE.load_from_disk and write it anew with save_sae."
        )


class SavedWhole:
    """An SAE, to be named before SAELens' class, whose own methods of saving leave a folder whole or as it was, and sealed."""

    def save_model(self, path: str | Path) -> Paths:
        """Save weights and configuration, as SAELens does; see `save_sae`."""
        return save_whole(path, super().save_model)  # type: ignore[misc]

    def save_inference_model(self, path: str | Path) -> Paths:
        """Save the inference form, as SAELens does; see `save_sae`."""
        return save_whole(path, super().save_inference_model)  # type: ignore[misc]

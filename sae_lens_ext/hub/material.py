"""What is given for an upload, read and checked as a whole before any of it is sent."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sae_lens import SAE
from sae_lens.constants import (
    RUNNER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
    TRAINER_STATE_FILENAME,
)
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from safetensors import SafetensorError, safe_open

from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.loading import load_sae, require_readable_save
from sae_lens_ext.architectures.sae_checks import require_sae
from sae_lens_ext.architectures.saving import save_sae
from sae_lens_ext.hub.facts import Facts, facts_of
from sae_lens_ext.hub.names import Given
from sae_lens_ext.json_file import read_json

FILES = (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME, RUNNER_CFG_FILENAME)
"""What of an SAE's folder is sent, as SAELens does."""


@dataclass(frozen=True)
class Material:
    """One SAE that is ready to be sent."""

    facts: Facts
    """What it is."""
    files: tuple[Path, ...]
    """Its files, whose names on the hub are their own."""

    @property
    def sae_id(self) -> str:
        """Its name in the repository."""
        return self.facts.sae_id


@contextmanager
def gathered(caller: str, saes: Mapping[str, Given]) -> Generator[list[Material], None, None]:
    """Give all SAEs as files; those that were given as objects are saved into a temporary folder, in their inference form.

    Args:
        caller: Function they were given to, for messages.
        saes: SAEs or folders by id.

    Raises:
        FileNotFoundError: A folder or a file of it is missing.
        ValueError: A folder holds something else than a whole SAE saved for inference.
        OSError: The temporary folder cannot be written.
    """
    with TemporaryDirectory(prefix="sae_lens_ext_") as aside:
        found: list[Material] = []
        for number, (sae_id, sae) in enumerate(saes.items()):
            folder = sae if isinstance(sae, Path) else _saved(caller, sae_id, sae, Path(aside) / str(number))
            facts = facts_of(sae_id, loaded(folder))
            files = (folder / name for name in FILES)
            found.append(Material(facts, tuple(path for path in files if path.is_file())))
        yield found


def facts_by_id(caller: str, saes: Mapping[str, Given]) -> list[Facts]:
    """Describe SAEs; raises as `gathered` does, and writes nothing."""
    return [
        facts_of(
            sae_id,
            loaded(sae) if isinstance(sae, Path) else as_inference(require_sae(caller, repr(sae_id), sae)),
        )
        for sae_id, sae in saes.items()
    ]


def loaded(folder: Path) -> SAE[Any]:
    """Load an SAE that is fit to be published.

    Args:
        folder: Where it is saved.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: It is damaged, or a checkpoint of training, or of an unknown architecture.
    """
    cfg = require_readable_save(folder)
    _require_inference_form(folder, cfg)
    sae = load_sae(folder)
    _require_readable_sparsity(folder / SPARSITY_FILENAME)
    if (folder / RUNNER_CFG_FILENAME).is_file():
        try:
            read_json(folder / RUNNER_CFG_FILENAME)
        except ValueError as error:
            raise ValueError(
                f"{folder / RUNNER_CFG_FILENAME} is not valid JSON ({error}). Restore it, or delete it: loading does not need it."
            ) from error
    return sae


def _saved(caller: str, sae_id: str, sae: SAE[Any], folder: Path) -> Path:
    weights, _ = save_sae(require_sae(caller, repr(sae_id), sae), folder)
    _order_header(weights)
    return folder


def _order_header(path: Path) -> None:
    """Write a safetensors file's own notes in the order of their names, so that one SAE is the same bytes whenever it is saved."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) <= length:
            file.seek(8)
            file.write(ordered.ljust(length))


def _require_inference_form(folder: Path, cfg: Mapping[str, Any]) -> None:
    """Raise ValueError for what training goes on from, also where an architecture has one name in training and inference."""
    name = cfg["architecture"]
    of_training: set[str] = set()
    if name in SAE_TRAINING_CLASS_REGISTRY and name in SAE_CLASS_REGISTRY:
        inference = {field.name for field in fields(SAE_CLASS_REGISTRY[name][1])}
        of_training = {field.name for field in fields(SAE_TRAINING_CLASS_REGISTRY[name][1])} - inference
    in_training_form = (
        sorted(of_training & cfg.keys())
        or name in SAE_TRAINING_CLASS_REGISTRY.keys() - SAE_CLASS_REGISTRY.keys()
    )
    if in_training_form or (folder / TRAINER_STATE_FILENAME).exists():
        raise ValueError(
            f"{folder} holds a checkpoint of training ({name!r}), which others cannot load as an SAE. Load it with TrainingSAE.load_from_disk, and give the "
            "SAE itself, or the folder that save_sae(sae, folder) writes."
        )


def _require_readable_sparsity(path: Path) -> None:
    """Raise ValueError if there is a file of sparsity that SAELens would fail on."""
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as file:
            file.get_tensor("sparsity")
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as the sparsity of an SAE ({error}), and SAE.from_pretrained would fail on it. Restore it, or delete it: loading does not "
            "need it."
        ) from error

"""What is saved in a folder, and whether all of it can be read: SAEs, checkpoints, results, vectors, routers, logs."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sae_lens.constants import (
    ACTIVATION_SCALER_CFG_FILENAME,
    RUNNER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
    TRAINER_STATE_FILENAME,
)
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from safetensors import SafetensorError, safe_open

from sae_lens_ext.architectures.loading import load_sae, require_readable_save, require_readable_training_save
from sae_lens_ext.architectures.saving import require_seal
from sae_lens_ext.asides import is_aside, is_before, is_given_up
from sae_lens_ext.checkpoints import tokens_trained
from sae_lens_ext.checksum import CHECKSUMS_FILE, has_changed
from sae_lens_ext.json_file import parse_json, read_json
from sae_lens_ext.lazy_names import MODULE_OF
from sae_lens_ext.run_log import LOG_FILE

_OF_AN_SAE = {
    ACTIVATION_SCALER_CFG_FILENAME,
    CHECKSUMS_FILE,
    RUNNER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
    TRAINER_STATE_FILENAME,
}
_STATES = {
    "SteeringTraining": "sae_lens_ext.steering.training.checkpoint",
    "LanguageModelTraining.state": "sae_lens_ext.lime.training.checkpoint",
}
_VECTORS_HEADER = "steering_vectors"


@dataclass(frozen=True)
class Saved:
    """Something that was saved."""

    path: Path
    """The file, or the folder."""
    kind: str
    """What it is, such as "SAE (kron)", "checkpoint of 4096 tokens", "FlowGraph"."""
    problem: str | None
    """Why it cannot be read, a sentence; None if it can."""


def check_saved(path: str | Path) -> list[Saved]:
    """Read whatever this package or SAELens has saved at a path, and say what it is and whether it is whole.

    Nothing is changed, and no pickle is executed. Checksums are compared where there are some: those of SAEs, checkpoints, results and vectors that this
    package saved. Files of other kinds are passed over.

    Args:
        path: A file, or a folder, which is searched with all folders below it.

    Returns:
        What was found, in the order of the paths.

    Raises:
        FileNotFoundError: There is nothing at the path.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is nothing at {path}. Give a file or a folder.")
    return list(_in_folder(path) if path.is_dir() else _in_file(path))


def _in_folder(folder: Path) -> Generator[Saved, None, None]:
    if is_aside(folder):
        yield _aside(folder)
        return
    if is_before(folder):
        yield Saved(
            folder,
            "what was there before a write that was cut off; look at it, and rename it if it is the only one",
            None,
        )
    names = {entry.name for entry in folder.iterdir()}
    if SAE_WEIGHTS_FILENAME in names or _is_configuration(folder / SAE_CFG_FILENAME):
        yield _checkpoint(folder) if TRAINER_STATE_FILENAME in names else _sae(folder)
    elif CHECKSUMS_FILE in names:
        yield Saved(folder, "checkpoint of several SAEs", _change(folder))
    is_sae = SAE_WEIGHTS_FILENAME in names or CHECKSUMS_FILE in names
    for name in sorted(names - (_OF_AN_SAE if is_sae else set())):
        entry = folder / name
        if entry.is_dir():
            yield from () if entry.is_symlink() else _in_folder(entry)  # a link may lead back here
        elif entry.is_file():  # and no pipe, which would be waited for
            yield from _in_file(entry)


def _aside(path: Path) -> Saved:
    kind = "left by a write that was cut off; it can be deleted" if is_given_up(path) else "being written"
    return Saved(path, kind, None)


def _is_configuration(path: Path) -> bool:
    """Whether a file is the configuration of an SAE, as far as can be told."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "architecture" in content and "d_in" in content


def _sae(folder: Path) -> Saved:
    try:
        name = require_readable_save(folder)["architecture"]
        if name in SAE_TRAINING_CLASS_REGISTRY and name not in SAE_CLASS_REGISTRY:
            require_seal(folder)
            return Saved(folder, f"SAE in training form ({name})", None)
        return Saved(folder, f"SAE ({load_sae(folder).cfg.architecture()})", None)
    except (ValueError, OSError) as error:
        return Saved(folder, "SAE", str(error))


def _checkpoint(folder: Path) -> Saved:
    try:
        require_readable_training_save(folder)
        kind = f"checkpoint of {tokens_trained(folder)} tokens"
    except (ValueError, OSError) as error:
        return Saved(folder, "checkpoint", str(error))
    return Saved(folder, kind, _change(folder))


def _change(folder: Path) -> str | None:
    if not has_changed(folder):
        return None
    return f"{folder} holds other bytes than were saved, or has lost a file. Go on from an earlier checkpoint, or copy it again."


def _in_file(path: Path) -> Iterable[Saved]:
    if is_aside(path):
        return [_aside(path)]
    if path.name == LOG_FILE and path.read_bytes()[:9] == b'{"step": ':
        return [_read(path, "log of a training", lambda: _require_lines(path))]
    try:
        kind = _kind_in_header(path) if path.suffix == ".safetensors" else _kind_in_json(path)
    except (ValueError, OSError, SafetensorError, LookupError) as error:
        if not _names_us(path):
            return []
        return [Saved(path, path.suffix.removeprefix("."), f"{path} cannot be read ({error}). Restore it.")]
    if kind in _STATES:
        loader = import_module(_STATES[kind]).Checkpoint.load
        return [_read(path, "state of a training", lambda: loader(path))]
    load = getattr(getattr(import_module(MODULE_OF[kind]), kind), "load", None) if kind in MODULE_OF else None
    return [] if load is None else [_read(path, kind, lambda: load(path))]


def _names_us(path: Path) -> bool:
    """Whether a file that cannot be read begins as those of this package do."""
    with path.open("rb") as file:
        return b"sae_lens_ext." in file.read(4096)


def _kind_in_header(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    if _VECTORS_HEADER in header:
        return "SteeringVectors"
    return _kind(header.get("format"))


def _kind_in_json(path: Path) -> str:
    if path.suffix != ".json":
        return ""
    content = read_json(path)
    return _kind(content.get("format") if isinstance(content, dict) else None)


def _kind(file_format: Any) -> str:
    """Give the name of the class from a format, such as "sae_lens_ext.FlowGraph/1"; nothing, if it is none of ours."""
    if not isinstance(file_format, str) or not file_format.startswith("sae_lens_ext."):
        return ""
    return file_format.removeprefix("sae_lens_ext.").partition("/")[0]


def _read(path: Path, kind: str, load: Callable[[], object]) -> Saved:
    try:
        load()
    except (ValueError, OSError) as error:
        return Saved(path, kind, str(error))
    return Saved(path, kind, None)


def _require_lines(path: Path) -> None:
    """Raise ValueError for a line that is no JSON; the last one may be cut off, and is dropped when the training goes on."""
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            parse_json(line)
        except ValueError as error:
            raise ValueError(f"Line {number} of {path} is no JSON ({error}). Restore it.") from error

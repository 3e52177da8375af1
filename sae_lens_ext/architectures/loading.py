"""Loading a saved SAE with errors that say what is wrong with the folder."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from safetensors import SafetensorError, safe_open

from sae_lens_ext.architectures.saving import require_seal
from sae_lens_ext.json_file import read_json

_OF_A_BAD_CONFIGURATION = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
_NEEDED = ("architecture", "d_in", "d_sae", "dtype")


def load_sae(path: str | Path, *, device: str = "cpu", dtype: str | None = None) -> SAE[Any]:
    """Load a saved SAE, ours or SAELens', as `SAE.load_from_disk` does, but say clearly what is wrong.

    Args:
        path: Folder that `save_inference_model`, `save_model` or a runner's `output_path` wrote.
        device: Where to put it.
        dtype: Precision to load in, such as "bfloat16"; None for that of the configuration.

    Returns:
        The SAE, of the class its architecture names.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: The configuration is not JSON, names an unknown architecture, or has missing or
            unknown fields; the weights are truncated, not safetensors, or do not fit the configuration; either has changed since
            this package saved it. SAELens' own saves have no checksum: a number changed in them cannot be told.
    """
    path, device = Path(path), str(device)
    _require_device(device)
    cfg = require_readable_save(path)
    name = cfg["architecture"]
    if name not in SAE_CLASS_REGISTRY:
        if name in SAE_TRAINING_CLASS_REGISTRY:
            raise ValueError(
                f"{path} holds a training checkpoint of the architecture {name!r}, not an SAE saved for inference. Load "
                "it with TrainingSAE.load_from_disk and write the inference form with save_inference_model."
            )
        raise ValueError(_not_registered(path, name, SAE_CLASS_REGISTRY))
    _require_known_fields(cfg, path)
    _require_field_types(cfg, path)
    try:
        sae = SAE.load_from_disk(path, device=device, dtype=dtype)
    except _OF_A_BAD_CONFIGURATION as error:
        raise ValueError(_cannot_be_built(path, name, dtype, device, error)) from error
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if "state_dict" not in str(error):
            raise ValueError(_cannot_be_built(path, name, dtype, device, error)) from error
        raise ValueError(
            f"The weights in {path / SAE_WEIGHTS_FILENAME} do not fit the {name!r} SAE that {SAE_CFG_FILENAME} "
            f"describes: {_first_complaint(error)}. The two files belong to different SAEs, or one was edited. Restore "
            "both from the same save."
        ) from error
    require_seal(path)
    return sae


def require_readable_save(path: Path) -> dict[str, Any]:
    """Give the configuration in a folder that holds a saved SAE or a checkpoint of training.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: The configuration is not that of an SAE, or the weights are truncated or not
            safetensors.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not a saved SAE: there is no such folder. Give that of a saved SAE, or of a checkpoint of training."
        )
    for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME):
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"{path} is not a saved SAE: it holds no {name}. Give the folder that save_inference_model or a "
                "training run's output_path wrote (for several SAEs, one of its subfolders)."
            )
    try:
        cfg = read_json(path / SAE_CFG_FILENAME)
    except ValueError as error:
        raise ValueError(
            f"{path / SAE_CFG_FILENAME} is not valid JSON ({error}). Restore it from a save."
        ) from error
    missing = [key for key in _NEEDED if not isinstance(cfg, dict) or key not in cfg]
    if missing or not isinstance(cfg["architecture"], str):
        raise ValueError(
            f"{path / SAE_CFG_FILENAME} is not the configuration of an SAE saved by SAELens 6: it names no "
            f"{' and no '.join(missing or ['architecture'])}. Restore it from a save, or load older SAEs with "
            "SAE.load_from_disk."
        )
    _require_readable_weights(path / SAE_WEIGHTS_FILENAME)
    return cfg


def require_readable_training_save(path: Path) -> None:
    """Do as `require_readable_save`, for a folder that training shall start from or go on from.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: It is not a training save that can be read, or of an unknown architecture.
    """
    name = require_readable_save(path)["architecture"]
    if name not in SAE_TRAINING_CLASS_REGISTRY:
        raise ValueError(_not_registered(path, name, SAE_TRAINING_CLASS_REGISTRY))


def _cannot_be_built(path: Path, name: str, dtype: str | None, device: str, error: Exception) -> str:
    return (
        f"{path / SAE_CFG_FILENAME} does not describe an SAE of the architecture {name!r} that can be built, or not with dtype {dtype!r} and device "
        f"{device!r} ({type(error).__name__}: {error!s:.300}). Restore it from a save."
    )


def _not_registered(path: Path, name: str, registry: Mapping[str, Any]) -> str:
    return (
        f"{path} holds an SAE of the architecture {name!r}, which is not registered. Registered are "
        f"{', '.join(sorted(registry))}. If another package defines it, import that package before loading."
    )


def _require_device(device: str) -> None:
    """Raise ValueError unless weights can be put on a device here."""
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("there are no numbers on it")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f'load_sae was given device = {device!r}, which cannot be used here ({str(error).partition(chr(10))[0]:.200}). Give device = "cpu", or one that there is.'
        ) from error


def _require_known_fields(cfg: dict[str, Any], path: Path) -> None:
    name = cfg["architecture"]
    config_class = SAE_CLASS_REGISTRY[name][1]
    if not config_class.__module__.startswith("sae_lens_ext."):
        return  # SAELens' own configurations may be older than its fields; SAELens knows how to read them
    config_classes = [
        registry[name][1]
        for registry in (SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY)
        if name in registry
    ]
    valid = {f.name for cls in config_classes for f in fields(cls)} | {"architecture"}
    unknown = sorted(set(cfg) - valid)
    if unknown:
        close = difflib.get_close_matches(unknown[0], valid, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"{path / SAE_CFG_FILENAME} has the fields {', '.join(map(repr, unknown))}, which {config_class.__name__} "
            f"does not know; SAELens would drop them silently.{hint} Remove or rename them."
        )


def _require_field_types(cfg: dict[str, Any], path: Path) -> None:
    """Raise ValueError for a field of another JSON type than its configuration class declares; SAELens would take it and fail later, or not at all."""
    hints = get_type_hints(SAE_CLASS_REGISTRY[cfg["architecture"]][1])
    for name, value in cfg.items():
        kinds = _json_kinds(hints.get(name))
        if value is None or (bool in kinds and value in (0, 1)):
            continue  # SAELens takes these
        fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if kinds and not fits:
            expected = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds))
            raise ValueError(
                f"{path / SAE_CFG_FILENAME} has {value!r:.80} as its {name!r}, where there should be {expected}. Restore it from a save, or correct it."
            )


def _json_kinds(hint: Any) -> tuple[type[Any], ...]:
    """Give the types that a field of an annotation has when it is read from JSON; none where that cannot be told."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        each = [_json_kinds(one) for one in arguments]
        return tuple(kind for kinds in each for kind in kinds) if all(each) else ()
    if origin is Literal:
        return tuple({type(one) for one in arguments})
    plain: dict[Any, tuple[type[Any], ...]] = {
        float: (float, int),
        tuple: (list,),
        dict: (dict,),
        list: (list,),
    }
    kind = origin or hint
    if kind in plain:
        return plain[kind]
    return (kind,) if kind in (int, str, bool, type(None)) else ()


def _require_readable_weights(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except SafetensorError as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not a safetensors file ({error}). Copy it again or "
            "restore it from a save."
        ) from error


def _first_complaint(error: RuntimeError) -> str:
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0]

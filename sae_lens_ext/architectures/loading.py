"""Loading a saved SAE with errors that say what is wrong with the folder."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from safetensors import SafetensorError, safe_open

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
            unknown fields; the weights are truncated, not safetensors, or do not fit the configuration.
    """
    path = Path(path)
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
    try:
        return SAE.load_from_disk(path, device=device, dtype=dtype)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise ValueError(
            f"The weights in {path / SAE_WEIGHTS_FILENAME} do not fit the {name!r} SAE that {SAE_CFG_FILENAME} "
            f"describes: {_first_complaint(error)}. The two files belong to different SAEs, or one was edited. Restore "
            "both from the same save."
        ) from error


def require_readable_save(path: Path) -> dict[str, Any]:
    """Give the configuration in a folder that holds a saved SAE or a checkpoint of training.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: The configuration is not that of an SAE, or the weights are truncated or not
            safetensors.
    """
    for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME):
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"{path} is not a saved SAE: it holds no {name}. Give the folder that save_inference_model or a "
                "training run's output_path wrote (for several SAEs, one of its subfolders)."
            )
    try:
        cfg = json.loads((path / SAE_CFG_FILENAME).read_text())
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


def _not_registered(path: Path, name: str, registry: Mapping[str, Any]) -> str:
    return (
        f"{path} holds an SAE of the architecture {name!r}, which is not registered. Registered are "
        f"{', '.join(sorted(registry))}. If another package defines it, import that package before loading."
    )


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

"""Routers as a file: safetensors, with what they fit and where they come from in the header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.json_file import parse_json, require_file
from sae_lens_ext.tensor_file import UNREADABLE, read_tensor_file, write_tensor_file

_FORMAT = "sae_lens_ext.LimeRouters/1"


def write_routers(
    path: str | Path, weights: Mapping[int, torch.Tensor], provenance: Mapping[str, Any], *, frozen: bool
) -> None:
    """Write R of every layer, `layer.ℓ`, float32; whole or not at all.

    Raises:
        ValueError: A weight is NaN or infinite. What was there is as it was.
    """
    tensors = {f"layer.{layer}": R.detach().float() for layer, R in weights.items()}
    _require_finite("The routers cannot be saved", tensors)
    header = {
        "frozen": json.dumps(frozen),
        "provenance": json.dumps({**provenance, **versions()}, allow_nan=False),
    }
    write_tensor_file(path, _FORMAT, tensors, header)


def read_routers(path: str | Path) -> tuple[dict[int, torch.Tensor], dict[str, Any], bool]:
    """Read R by layer, the provenance, and whether they are frozen.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, of another kind, or its weights do not fit together.
    """
    require_file(Path(path), "Give a file that LimeRouters.save wrote.")
    try:
        tensors, header = read_tensor_file(path, _FORMAT)
        weights = {layer: tensors[f"layer.{layer}"] for layer in range(len(tensors))}
        n_heads = weights[0].shape[0]
        for layer, R in weights.items():
            if n_heads == 0 or R.shape != (n_heads, layer + 1, n_heads) or R.dtype != torch.float32:
                raise ValueError(f"layer {layer} has the shape {tuple(R.shape)} and the type {R.dtype}")
        _require_finite("they are of no use", tensors)
        provenance, frozen = parse_json(header["provenance"]), parse_json(header["frozen"])
        if not isinstance(provenance, dict) or not isinstance(frozen, bool):
            raise ValueError(
                "its provenance is no mapping, or whether they are frozen is neither true nor false"
            )
        return weights, provenance, frozen
    except UNREADABLE as error:
        raise ValueError(
            f"{path} holds no LIMe routers that this version can read, {_FORMAT} ({type(error).__name__}: {error}). Give a file that LimeRouters.save wrote."
        ) from error


def _require_finite(what: str, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, R in tensors.items():
        if not bool(R.isfinite().all()):
            raise ValueError(f"{what}: {name} holds NaN or infinity. Train again with a lower router_lr.")

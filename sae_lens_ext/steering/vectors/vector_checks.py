"""What a steering vector is: a layer, and one row of finite numbers; checked and copied."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from sae_lens_ext.number_checks import whole_number


def require_layer(caller: str, layer: Any) -> int:
    """Give a layer as an int of Python's; raise ValueError unless it is a whole number from 0 on.

    Args:
        caller: Who was given it, for the message.
        layer: What the user gave.
    """
    found = whole_number(layer)
    if found is None or found < 0:
        raise ValueError(f"{caller} was given {layer!r} as a layer. Layers are whole numbers from 0 on.")
    return found


def checked_vector(caller: str, name: str, vector: Any) -> torch.Tensor:
    """Give a copy of a vector: [d], float32, detached, on the CPU.

    Args:
        caller: Who was given it, for the message.
        name: What it is called there, such as "the vector of layer 3".
        vector: What the user gave: a floating-point tensor [d] of any precision.

    Raises:
        ValueError: It is no such tensor, or has NaN or infinity in it, perhaps only as float32.
    """
    if not isinstance(vector, torch.Tensor):
        raise ValueError(
            f"{caller} was given {name} as {type(vector).__name__}. Give a tensor of floating-point numbers [d_model]."
        )
    if not vector.is_floating_point() or vector.ndim != 1 or len(vector) == 0:
        raise ValueError(
            f"{caller} was given {name} with the shape {list(vector.shape)} and type {vector.dtype}. Give a tensor of floating-point numbers "
            "[d_model]."
        )
    if vector.is_meta:
        raise ValueError(
            f"{caller} was given {name} on the meta device, without its numbers. Load the model's weights first."
        )
    copied = vector.detach().to("cpu", torch.float32, copy=True)
    if not torch.isfinite(copied).all():
        large = vector.dtype == torch.float64 and bool(torch.isfinite(vector).all())
        what = "with numbers too large for float32" if large else "with NaN or infinity in it"
        raise ValueError(f"{caller} was given {name} {what}. Look at where it was computed.")
    return copied


def checked_vectors(caller: str, vectors: Any) -> dict[int, torch.Tensor]:
    """Give copies of vectors by layer, in ascending order.

    Args:
        caller: Who was given them, for messages.
        vectors: What the user gave: a mapping of layers to tensors.

    Raises:
        ValueError: It is no such mapping, it is empty, a layer or a vector is none, or the widths differ.
    """
    if not isinstance(vectors, Mapping):
        raise ValueError(
            f"{caller} was given {type(vectors).__name__}. Give a mapping of layers to vectors, such as {{0: tensor, 1: tensor}}."
        )
    if not vectors:
        raise ValueError(
            f"{caller} was given no vector. Give at least one layer's, such as {{3: torch.zeros(d_model)}}."
        )
    found: dict[int, torch.Tensor] = {}
    for key, vector in vectors.items():
        layer = require_layer(caller, key)
        if layer in found:
            raise ValueError(
                f"{caller} was given layer {layer} twice, under keys of different types. Give ints."
            )
        found[layer] = checked_vector(caller, f"the vector of layer {layer}", vector)
    first, *others = sorted(found)
    for layer in others:
        if len(found[layer]) != len(found[first]):
            raise ValueError(
                f"{caller} was given vectors of different widths: {len(found[first])} in layer {first}, {len(found[layer])} in layer {layer}. Give "
                "vectors of one model, each [d_model]."
            )
    return {layer: found[layer] for layer in (first, *others)}


def checked_provenance(caller: str, provenance: Any) -> dict[str, Any]:
    """Give a deep copy of a provenance as JSON keeps it, tuples as lists.

    Raises:
        ValueError: It is no mapping by strings, or holds what JSON does not know, such as tensors and NaN.
    """
    if not isinstance(provenance, Mapping) or not all(isinstance(key, str) for key in provenance):
        raise ValueError(
            f"{caller} was given a provenance that is no mapping of names to values ({type(provenance).__name__}). Give a dict with strings as keys."
        )
    try:
        return json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{caller} was given a provenance that cannot be written as JSON ({error}). Give strings, finite numbers, lists and dicts."
        ) from error

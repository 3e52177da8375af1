"""From biases on the MLP's last projection, in a model or a file, to steering vectors: which count, and which are refused."""

from pathlib import Path
from typing import Any

import torch

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.steering.vectors.bias_checkpoint import checkpoint_biases
from sae_lens_ext.steering.vectors.mlp_output import require_mlp_adds_directly
from sae_lens_ext.steering.vectors.model_biases import (
    model_biases,
    model_name_of,
    model_size,
    require_biases,
    require_fits,
)
from sae_lens_ext.steering.vectors.vector_checks import checked_vectors

Biases = tuple[dict[int, torch.Tensor], dict[str, Any]]
"""By layer, and the provenance."""


def biases_of_model(caller: str, model: Any, base: Any) -> Biases:
    """Give a model's biases, or their difference to a base's; see `SteeringVectors.from_model`."""
    read = model_biases(caller, model)
    provenance = {"made_by": caller, "model_name": model_name_of(model)}
    if base is None:
        require_biases(caller, model, read)
        biases = checked_vectors(caller, read)
    else:
        sizes, of_base = model_size(caller, model), model_size(caller, base)
        if sizes != of_base:
            raise ValueError(
                f"{caller} was given a model with {sizes[0]} layers of width {sizes[1]}, and a base with {of_base[0]} of width {of_base[1]}. Give the model as "
                "it was before training as the base."
            )
        read_of_base = model_biases(caller, base)
        if not read_of_base:
            require_biases(caller, model, read)
        biases = _difference(caller, read, read_of_base)
        provenance["base_model_name"] = model_name_of(base)
    if not any(bias.any() for bias in biases.values()):
        found = "are all zero" if base is None else "are those of the base"
        raise ValueError(
            f"{caller} was given {type(model).__name__}, whose biases on the last projection of the MLPs {found}, so it holds no steering vectors. "
            "HookedTransformer has zeros where a model has no biases. Load the checkpoint that was trained; zeros are SteeringVectors.zeros(model)."
        )
    return biases, {**provenance, **versions()}


def biases_of_checkpoint(caller: str, path: str | Path, model: Any) -> Biases:
    """Give the biases in a checkpoint; see `SteeringVectors.from_bias_checkpoint`."""
    if model is not None:
        require_mlp_adds_directly(caller, model)
    found = checkpoint_biases(path)
    try:
        biases = checked_vectors(caller, found)
    except ValueError as error:
        raise ValueError(f"{error} They are in {path}.") from error
    if not any(bias.any() for bias in biases.values()):
        raise ValueError(
            f"{path} has biases on down_proj in {len(biases)} layers, but all are zero, so it holds no steering vectors: nobody has trained it. Give another; "
            "zeros are SteeringVectors.zeros(model)."
        )
    if model is not None:
        require_fits(f"{path}", biases, model)
    return biases, {"made_by": caller, "checkpoint": Path(path).name, **versions()}


def _difference(
    caller: str, biases: dict[int, torch.Tensor], of_base: dict[int, torch.Tensor]
) -> dict[int, torch.Tensor]:
    both = [checked_vectors(caller, one) if one else {} for one in (biases, of_base)]
    found: dict[int, torch.Tensor] = {}
    for layer in sorted({*both[0], *both[1]}):
        first, second = both[0].get(layer), both[1].get(layer)
        if first is None:
            first = torch.zeros_like(both[1][layer])
        found[layer] = first if second is None else first - second
    return found

"""Vectors of the residual stream out of whatever holds some: tensors, steering vectors, interventions that add."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from sae_lens_ext.language_model import same_hook
from sae_lens_ext.steering.effects import AddedVector
from sae_lens_ext.steering.hook_points import OF_WIDTH_D_MODEL
from sae_lens_ext.steering.intervention import Intervention, InterventionSum, SingleIntervention
from sae_lens_ext.steering.vectors.steering_vectors import SteeringVectors
from sae_lens_ext.steering.vectors.vector_checks import checked_vector, require_layer

NamedVectors = dict[str, tuple[int | None, torch.Tensor]]


def named_vectors(caller: str, value: Any, d_model: int) -> NamedVectors:
    """Give the vectors that a value holds, by label, each with its layer if it has one.

    | value | labels | layer |
    |---|---|---|
    | a tensor [d_model], such as an SAE's decoder row or a difference of means | `vector` | None |
    | a tensor [n, d_model] | `vector 0`, `vector 1`, ... | None |
    | a mapping of labels, or of layers, to tensors | the labels, or `layer 3` | None, or the layer |
    | `SteeringVectors` | `layer 3`; layers whose vector is zero are left out | the layer |
    | an intervention that adds: `AddVector`, `AddFeature`, sums such as `flow_steering` gives, and lists of these | hook names | the hook's block |

    What an intervention adds counts with its strength, and what several add at one hook is summed. Which tokens it is added to does
    not count, but it must be the same tokens for all that is summed.

    Args:
        caller: Who was given the value, for messages.
        value: As above.
        d_model: Width of the model's residual stream.

    Returns:
        By label (layer, vector): float32 [d_model], detached copies on the CPU, none of them zero.

    Raises:
        ValueError: The value is of none of these kinds, or holds no vector; a vector is zero, of another width, or has NaN or infinity in it; an intervention
            adds no fixed vector (`relative=True`, or one on a feature's live activation), or acts elsewhere than on the residual stream.
    """
    found = _read(caller, value)
    for label, (_, vector) in found.items():
        if len(vector) != d_model:
            raise ValueError(
                f"{caller} was given {label!r} with {len(vector)} numbers, but the model's residual stream has width {d_model}. Give vectors of this "
                "model."
            )
        if not vector.any():
            raise ValueError(
                f"{caller} was given {label!r} as a vector of zeros, which has no direction to read. Leave it out."
            )
    return found


def _read(caller: str, value: Any) -> NamedVectors:
    if isinstance(value, torch.Tensor) and value.ndim == 2:
        value = {f"vector {i}": row for i, row in enumerate(value)}
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, Intervention) for one in value):
        value = InterventionSum(value)
    if isinstance(value, torch.Tensor):
        return {"vector": (None, checked_vector(caller, "the vector", value))}
    if isinstance(value, SteeringVectors):
        return _of_steering_vectors(caller, value)
    if isinstance(value, Mapping):
        return _of_mapping(caller, value)
    if isinstance(value, Intervention):
        return _of_intervention(caller, value)
    raise ValueError(
        f"{caller} was given {type(value).__name__} as vectors. Give a tensor [d_model], a mapping of labels or layers to tensors, SteeringVectors, or "
        "interventions that add vectors (AddVector, AddFeature, and their sums)."
    )


def _of_steering_vectors(caller: str, value: SteeringVectors) -> NamedVectors:
    found: NamedVectors = {
        f"layer {layer}": (layer, value[layer].clone()) for layer in value if value[layer].any()
    }
    if not found:
        raise ValueError(
            f"{caller} was given steering vectors that are all zero, as before training, so there is nothing to read. Train them first."
        )
    return found


def _of_mapping(caller: str, value: Mapping[Any, Any]) -> NamedVectors:
    if not value:
        raise ValueError(f"{caller} was given an empty mapping. Give at least one vector.")
    found: NamedVectors = {}
    for key, vector in value.items():
        layer = None if isinstance(key, str) else require_layer(caller, key)
        label = key if isinstance(key, str) else f"layer {layer}"
        if label in found:
            raise ValueError(f"{caller} was given the label {label!r} twice. Give each vector its own.")
        found[label] = (layer, checked_vector(caller, f"{label!r}", vector))
    return found


def _of_intervention(caller: str, value: Intervention) -> NamedVectors:
    sums: dict[str, torch.Tensor] = {}
    firsts: dict[str, SingleIntervention] = {}
    for part in value.parts:
        vector = _added(caller, part)
        hook = next((name for name in sums if same_hook(name, part.site.hook_name)), part.site.hook_name)
        first = firsts.setdefault(hook, part)
        if first.tokens.key != part.tokens.key:
            raise ValueError(
                f"{caller} was given interventions on different tokens at {hook!r}, {first} and {part}, so their sum is added nowhere. Give one of them, or "
                "the vectors by label."
            )
        if hook in sums and len(sums[hook]) != len(vector):
            raise ValueError(
                f"{caller} was given vectors of the widths {len(sums[hook])} and {len(vector)} at {hook!r}. Give vectors of one model."
            )
        sums[hook] = sums[hook] + vector if hook in sums else vector
    return {
        hook: (_block_of(hook), checked_vector(caller, f"{hook!r}", total)) for hook, total in sums.items()
    }


def _added(caller: str, part: SingleIntervention) -> torch.Tensor:
    """Give what a part adds to every token, in double precision."""
    effect = part.effect()
    if not isinstance(effect, AddedVector):
        raise ValueError(
            f"{caller} was given {part}, which adds no fixed vector: how much depends on the activation at each token. Give AddVector, AddFeature, "
            "or the decoder row as a tensor."
        )
    if effect.relative:
        raise ValueError(
            f"{caller} was given {part}, whose length is relative to each token's activation, so that it adds no fixed vector. Give it without "
            "relative=True, or its direction as a tensor."
        )
    name = part.site.hook_name
    if part.site.head is not None or not OF_WIDTH_D_MODEL.fullmatch(name):
        raise ValueError(
            f"{caller} was given {part}, but {name!r} is no place of the residual stream, nor of what is added to it. Give interventions at such as "
            "'blocks.10.hook_resid_post', or map the vector to the residual stream and give it as a tensor."
        )
    return effect.strength * effect.vector.detach().to("cpu", torch.float64)


def _block_of(hook_name: str) -> int | None:
    block = re.match(r"blocks\.(\d+)\.", hook_name)
    return int(block[1]) if block else None

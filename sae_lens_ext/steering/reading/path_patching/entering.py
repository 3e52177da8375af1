"""The vector that enters a block, and the layer it is added after."""

from typing import Any

import torch

from sae_lens_ext.language_model import same_hook
from sae_lens_ext.language_model.hook_points import hook_points_of
from sae_lens_ext.number_checks import whole_number
from sae_lens_ext.steering.intervention import Intervention
from sae_lens_ext.steering.token_selection import PHASES
from sae_lens_ext.steering.vectors.named_vectors import named_vectors


def entering_vector(caller: str, model: Any, value: Any, layer: Any) -> tuple[int, torch.Tensor]:
    """Give one vector, and the layer after which it is added to the residual stream.

    Args:
        caller: Who was given them, for messages.
        model: The model whose next block it enters.
        value: What `named_vectors` reads, holding one vector.
        layer: The layer; None for the vector's own, or the last but one if it has none.

    Returns:
        The layer, and the vector [d_model], float32, on the CPU.

    Raises:
        ValueError: There is not just one vector, or of another width; it is added elsewhere than to the residual stream between two blocks, or to some
            tokens only; the layer is none of the model's, has no block after it, or is another than the vector's.
    """
    hook_points_of(model)  # raises if it has none
    n_layers = model.cfg.n_layers
    if isinstance(value, Intervention):
        _require_every_token(caller, value)
    found = named_vectors(caller, value, model.cfg.d_model)
    if len(found) != 1:
        raise ValueError(
            f"{caller} was given {len(found)} vectors, {', '.join(map(repr, list(found)[:3]))}, but patches the paths of one. Give one of them, such as "
            "vectors.only(layer)."
        )
    [(label, (own, vector))] = found.items()
    if isinstance(value, Intervention):
        own = _layer_of_hook(caller, label, n_layers)
    given = None if layer is None else whole_number(layer)
    if layer is not None and given is None:
        raise ValueError(f"{caller} was given layer = {layer!r}. Give a whole number from 0 on.")
    if given is not None and own is not None and given != own:
        raise ValueError(
            f"{caller} was given layer = {given}, but the vector is of layer {own}. Leave layer out, or give the vector as a tensor."
        )
    chosen = next((one for one in (given, own) if one is not None), n_layers - 2)
    if not 0 <= chosen <= n_layers - 2:
        raise ValueError(
            f"{caller} was given layer {chosen}, after which there is no block for the vector to enter: the model has {n_layers} layers. Give a layer from "
            f"0 to {n_layers - 2}."
            if n_layers > 1
            else f"{caller} was given a model of one layer, which has no block after a layer for the vector to enter. Give a model of at least two."
        )
    return chosen, vector


def _layer_of_hook(caller: str, hook_name: str, n_layers: int) -> int:
    for layer in range(n_layers):
        if same_hook(hook_name, f"blocks.{layer}.hook_resid_post") or same_hook(
            hook_name, f"blocks.{layer + 1}.hook_resid_pre"
        ):
            return layer
    raise ValueError(
        f"{caller} was given a vector at {hook_name!r}, but a vector enters a block through the residual stream before it. Give it at such as "
        f"'blocks.{max(0, n_layers - 2)}.hook_resid_post', or as a tensor."
    )


def _require_every_token(caller: str, intervention: Intervention) -> None:
    for part in intervention.parts:
        if part.tokens.positions is not None or set(part.tokens.phases) != set(PHASES):
            raise ValueError(
                f"{caller} was given {part}, which acts on some tokens only, but here the vector enters at every token. Leave positions and phases out."
            )

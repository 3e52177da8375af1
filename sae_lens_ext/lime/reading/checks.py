"""What every reading of routers asks of them first."""

from collections.abc import Mapping
from typing import Any

import torch


def router_weights(caller: str, routers: Any) -> dict[int, torch.Tensor]:
    """Give copies of routers' weights, on the CPU.

    Args:
        caller: Function the routers were given to, for messages.
        routers: LimeRouters.

    Returns:
        By target layer, from 0 on: [target head, source layer, source head], float32; signed.

    Raises:
        ValueError: These are no routers, or their weights have a wrong shape, or NaN or infinity in them.
    """
    weights = getattr(routers, "weights", None)
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(
            f"{caller} was given {type(routers).__name__}, which has no router weights by layer. Give LimeRouters, such as attach_lime(model) returns."
        )
    copies = {layer: weights[layer].detach().to("cpu", torch.float32, copy=True) for layer in sorted(weights)}
    n_heads = len(copies[min(copies)])
    for expected, (layer, weight) in enumerate(copies.items()):
        if layer != expected or weight.shape != (n_heads, expected + 1, n_heads):
            raise ValueError(
                f"{caller} was given weights of shape {tuple(weight.shape)} for layer {layer!r}, where those of layer {expected} are due, "
                f"[{n_heads} target heads, {expected + 1} source layers, {n_heads} source heads]. Give the weights of every layer, from 0 on."
            )
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"{caller} was given routers whose weights of layer {layer} have NaN or infinity in them. Did their training diverge? Load an earlier "
                "checkpoint, or train with a lower router_lr."
            )
    return copies

"""What routers start from."""

import math
from typing import Any, Literal, get_args

import torch

from sae_lens_ext.number_checks import require_seed, whole_number

Initial = Literal["identity", "random", "average"]


def initial_weights(n_layers: Any, n_kv_heads: Any, initial: Initial, seed: int) -> dict[int, torch.Tensor]:
    """Give R by layer, [n_kv_heads, layer + 1, n_kv_heads]; `LimeRouters` says what each start is.

    Raises:
        ValueError: A size is no whole number above 0, or there is no such start.
    """
    sizes = {"n_layers": whole_number(n_layers), "n_kv_heads": whole_number(n_kv_heads)}
    given = {"n_layers": n_layers, "n_kv_heads": n_kv_heads}
    for name, size in sizes.items():
        if size is None or size < 1:
            raise ValueError(
                f"LimeRouters was given {name} = {given[name]!r}. Give a whole number of at least 1."
            )
    if initial not in get_args(Initial):
        raise ValueError(
            f"LimeRouters was given initial = {initial!r}. Give one of {', '.join(map(repr, get_args(Initial)))}."
        )
    own_seed = require_seed("LimeRouters", seed)
    generator = torch.Generator().manual_seed(own_seed)
    H = int(n_kv_heads)
    weights: dict[int, torch.Tensor] = {}
    for layer in range(int(n_layers)):
        if initial == "average":
            weights[layer] = (torch.eye(H) / (layer + 1))[:, None].repeat(1, layer + 1, 1)
            continue
        R = torch.zeros(H, layer + 1, H)
        if initial == "random":
            bound = math.sqrt(3 / ((layer + 1) * H))
            R.uniform_(-bound, bound, generator=generator)
        R[:, layer] = torch.eye(H)
        weights[layer] = R
    return weights

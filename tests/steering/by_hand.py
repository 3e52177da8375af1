"""An SAE small enough to work out by hand, and what an intervention makes of its activations."""

from typing import Any

import torch
from sae_lens import (
    StandardSAE,
    StandardSAEConfig,
)

from sae_lens_ext.steering import (
    Intervention,
)
from tests.steering.naive import EARLY

NAN, INFINITY = float("nan"), float("inf")


def hand_sae(**fields: Any) -> StandardSAE:
    """Two features on two dimensions: a = relu((x0, x1 − 1)), rows (3, 4) and (0, 2)."""
    sae = StandardSAE(StandardSAEConfig(d_in=2, d_sae=2, apply_b_dec_to_input=False, **fields))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(2))
        sae.b_enc.copy_(torch.tensor([0.0, -1.0]))
        sae.W_dec.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        sae.b_dec.copy_(torch.tensor([10.0, 10.0]))
    sae.cfg.metadata.hook_name = EARLY
    return sae


def after(intervention: Intervention, *rows: list[float]) -> list[list[float]]:
    """Run its hook on activations of one sequence."""
    [(_, hook)] = intervention.hooks()
    x = torch.tensor([rows])
    new = hook(x, hook=None)
    return (x if new is None else new)[0].tolist()

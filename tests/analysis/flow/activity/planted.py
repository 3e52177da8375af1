"""SAEs of which it is known where each feature comes from.

At layer 1 feature i < 8 has the predecessors R, M, A that are active by the bits of i (1, 2, 4); feature 8 is never active; feature 9 is
active and no predecessor points its way. What is active is so at every token.
"""

from typing import Any

import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_ext.analysis.flow.thresholds import FlowThresholds

TARGET = "blocks.1.hook_resid_post"
PREDECESSORS = {
    "residual": "blocks.0.hook_resid_post",
    "mlp": "blocks.1.hook_mlp_out",
    "attention": "blocks.1.hook_attn_out",
}
HALF = FlowThresholds(residual=0.5, mlp=0.5, attention=0.5)
LOW = 0.25


def constant_sae(hook_name: str, rows: torch.Tensor, active: list[bool]) -> SAE[Any]:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=16, d_sae=len(rows)))
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.copy_(torch.tensor([10.0 if on else -10.0 for on in active]))
        sae.W_dec.copy_(rows)
        sae.b_dec.zero_()
        sae.threshold.fill_(0.1)
    sae.cfg.metadata.hook_name = hook_name
    return sae


def planted_saes(*, low: float = LOW) -> dict[str, SAE[Any]]:
    """Scores are 1 for predecessors that are active, and `low` for those that are not."""
    basis = torch.eye(16)
    saes = {TARGET: constant_sae(TARGET, basis[[*range(9), 15]], [i != 8 for i in range(10)])}
    for bit, hook in enumerate(PREDECESSORS.values()):
        on = [bool(i >> bit & 1) for i in range(8)]
        rows = [basis[i] if on[i] else low * basis[i] - (1 - low**2) ** 0.5 * basis[8 + i] for i in range(8)]
        rows = [*reversed(rows), -basis[15]]  # feature i is at 7 − i; the last is active and never a match
        saes[hook] = constant_sae(hook, torch.stack(rows), [*reversed(on), True])
    return saes

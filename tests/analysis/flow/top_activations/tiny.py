"""Random SAEs along the tiny models, and documents for them."""

from collections.abc import Sequence
from typing import Any

import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig

RESIDUAL = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
MLP = ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")
ATTENTION = ("blocks.0.hook_attn_out", "blocks.1.hook_attn_out")
D_SAE = 12


def documents(n: int, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    return [
        " ".join(f"w{i}" for i in torch.randint(30, (17,), generator=generator).tolist()) for _ in range(n)
    ]


def random_sae(hook_name: str, seed: int, *, d_sae: int = D_SAE, d_in: int = 16) -> SAE[Any]:
    """A JumpReLU SAE of which each latent fires on a share of all tokens, and latent 3 on none."""
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_in, d_sae=d_sae))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (sae.W_enc, sae.W_dec):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        sae.W_dec.copy_(torch.nn.functional.normalize(sae.W_dec, dim=1))
        sae.b_dec.zero_()
        sae.b_enc.zero_()
        sae.b_enc[3] = -1e4
        sae.threshold.fill_(0.05)
    sae.cfg.metadata.hook_name = hook_name
    return sae


def random_saes(
    hooks: Sequence[str] = (*RESIDUAL, *MLP, *ATTENTION), *, d_sae: int = D_SAE
) -> dict[str, SAE[Any]]:
    return {hook: random_sae(hook, seed, d_sae=d_sae) for seed, hook in enumerate(hooks)}

"""Small base SAEs with weights of every kind that a stack can stand on, and residuals for them."""

from typing import Any

import torch
from sae_lens import (
    SAE,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)

from sae_lens_ext import ResidualTrainingSAE, ResidualTrainingSAEConfig

D_IN, D_BASE, D_RESIDUAL = 8, 24, 10
HOOK = "blocks.1.hook_resid_post"


def base_sae(kind: str, seed: int = 0, **fields: Any) -> SAE[Any]:
    """A base with random weights and biases: standard, gated, jumprelu, topk or rescaled_topk."""
    size = {"d_in": D_IN, "d_sae": D_BASE, **fields}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sae: SAE[Any]
        if kind == "standard":
            sae = StandardSAE(StandardSAEConfig(**size))
        elif kind == "gated":
            sae = GatedSAE(GatedSAEConfig(**size))
        elif kind == "jumprelu":
            sae = JumpReLUSAE(JumpReLUSAEConfig(**size))
        else:
            sae = TopKSAE(TopKSAEConfig(**size, k=5, rescale_acts_by_decoder_norm=kind == "rescaled_topk"))
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                parameter.normal_()
                if name == "threshold":
                    parameter.abs_()
    sae.cfg.metadata.hook_name = HOOK
    return sae


def residual_for(base: SAE[Any], seed: int = 1, steps: int = 0, **fields: Any) -> ResidualTrainingSAE:
    """A residual SAE on `base`, with random weights and a threshold that some latents pass."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cfg = ResidualTrainingSAEConfig(**{"d_in": D_IN, "d_sae": D_RESIDUAL, "k": 3, **fields})
        sae = ResidualTrainingSAE(cfg, base=base)
        with torch.no_grad():
            for parameter in (sae.W_enc, sae.W_dec, sae.b_enc):
                parameter.normal_()
        sae.topk_threshold.fill_(1.5)
    return sae

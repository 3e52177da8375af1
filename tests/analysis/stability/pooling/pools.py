"""SAEs to pool, with known overlap, and references for them."""

import math
from typing import Any

import torch
from sae_lens import (
    SAE,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)

from tests.analysis.stability.labelled import HOOK, random_rows, unit

D_IN, K = 16, 3


def sae_of(rows: torch.Tensor, kind: str = "topk", seed: int = 0, **fields: Any) -> Any:
    """An SAE with decoder rows in these directions [d_sae, d_in], in lengths from 0.5 to 2, and all else at random."""
    size = {"d_in": rows.shape[1], "d_sae": len(rows), **fields}
    sae: SAE[Any]
    if kind == "jumprelu":
        sae = JumpReLUSAE(JumpReLUSAEConfig(**size))
    elif kind == "standard":
        sae = StandardSAE(StandardSAEConfig(**size))
    else:
        sae = TopKSAE(TopKSAEConfig(rescale_acts_by_decoder_norm=kind == "rescaled_topk", **{"k": K, **size}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.abs_()
        sae.W_dec.copy_(rows * torch.linspace(0.5, 2, len(rows))[:, None])
    sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name = HOOK, "gpt2"
    sae.cfg.metadata.initialisation_seed = seed
    return sae


def axis(i: int, cosine: float = 1.0, towards: int = 15) -> torch.Tensor:
    """A unit vector [d_in] with this cosine with an axis; the rest of it points along another."""
    return cosine * torch.eye(D_IN)[i] + math.sqrt(1 - cosine**2) * torch.eye(D_IN)[towards]


def overlapping() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two SAEs to pool, and two references: p̂ is 1 along the axes 0 and 1, 1/2 along 2 and 4, 0 along 3 and 5."""
    pooled = {
        "a": sae_of(torch.stack([axis(3), axis(2), axis(0), axis(1)]), seed=1),
        "b": sae_of(torch.stack([axis(5), axis(4), axis(1, 0.9, 14), axis(0, 0.8, 14)]), seed=2),
    }
    references = {
        "r": sae_of(torch.stack([axis(0, 0.98), axis(1, 0.95), axis(2, 0.8), axis(9)]), seed=3),
        "s": sae_of(torch.stack([axis(0, 0.98, 13), axis(1, 0.95, 13), axis(4, 0.9), axis(8)]), seed=4),
    }
    return pooled, references


def two_pools(kind: str, **fields: Any) -> tuple[list[Any], list[Any]]:
    """Three SAEs that share 6 of 10 features, up to noise, and two references that have these."""
    shared = random_rows(6, D_IN, seed=0)
    saes = []
    for seed in range(5):
        noise = 0.03 * torch.randn(6, D_IN, generator=torch.Generator().manual_seed(seed))
        own = random_rows(4, D_IN, seed=100 + seed)
        saes.append(sae_of(torch.cat([own, unit(shared + noise)]), kind, seed, **fields))
    return saes[:3], saes[3:]

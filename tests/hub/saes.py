"""Tiny SAEs of the kinds that are published."""

from typing import Any

import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, TopKSAE, TopKSAEConfig

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
    ResidualStackSAE,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
)
from sae_lens_ext.architectures.inference import as_inference

D_IN, D_SAE, HOOK = 8, 32, "blocks.1.hook_resid_post"


def made_saes() -> dict[str, Any]:
    """Give one SAE of each kind by the id it is published under."""
    torch.manual_seed(0)
    base: Any = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4))
    plain: Any = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE))
    for sae in (base, plain):
        torch.nn.init.normal_(sae.W_enc)
        torch.nn.init.normal_(sae.W_dec)
    nested = HierarchicalTopKTrainingSAE(
        HierarchicalTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4, budgets=(1, 2, 4))
    )
    kron = KronTrainingSAE(KronTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4, base_dim=2, extension_dim=2))
    for sae in (base, plain, nested, kron):
        sae.cfg.metadata.hook_name = HOOK
        sae.cfg.metadata.model_name = "EleutherAI/pythia-70m"
    cfg = ResidualTrainingSAEConfig(d_in=D_IN, d_sae=16, k=2)
    cfg.metadata.hook_name = HOOK
    residual = ResidualTrainingSAE(cfg, base=base)
    torch.nn.init.normal_(residual.W_enc)
    residual.topk_threshold.fill_(0.5)
    saes: dict[str, SAE[Any]] = {
        "base": base,
        "jumprelu": plain,
        "nested": as_inference(nested),
        "kron": as_inference(kron),
        "boost/code": as_inference(residual),
        "stack": ResidualStackSAE.from_saes(base, {"code": residual}),
    }
    return saes


def same(one: SAE[Any], other: SAE[Any]) -> bool:
    """Whether two SAEs make the same of activations."""
    x = torch.randn(5, D_IN, generator=torch.Generator().manual_seed(3))
    return (
        type(one) is type(other)
        and torch.equal(one.encode(x), other.encode(x))
        and torch.equal(one(x), other(x))
    )

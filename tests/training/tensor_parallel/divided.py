"""An SAE in one piece, and shares of it."""

from typing import Any

import torch
from sae_lens import TopKTrainingSAEConfig

from sae_lens_ext import HierarchicalTopKTrainingSAE, HierarchicalTopKTrainingSAEConfig
from sae_lens_ext.training.tensor_parallel import DividedTopKTrainingSAE
from sae_lens_ext.training.tensor_parallel.shares import share_of_state

SIZE: dict[str, Any] = {"d_in": 8, "d_sae": 32, "k": 4}


def topk_cfg(**fields: Any) -> TopKTrainingSAEConfig:
    return TopKTrainingSAEConfig(**{**SIZE, **fields})


def undivided(**fields: Any) -> HierarchicalTopKTrainingSAE:
    """The SAE that is to be divided, with weights that were not just drawn."""
    fields = {**SIZE, **fields}
    sae = HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(**fields, budgets=(fields["k"],)))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        sae.W_dec.mul_(5 * torch.rand(len(sae.W_dec), 1, generator=generator) + 1)
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return sae


def share_of(whole: HierarchicalTopKTrainingSAE, **fields: Any) -> DividedTopKTrainingSAE:
    """This rank's share of an SAE, configured as SAELens' TopK."""
    cfg = topk_cfg(
        **{
            name: getattr(whole.cfg, name)
            for name in (
                "d_in",
                "d_sae",
                "k",
                "apply_b_dec_to_input",
                "rescale_acts_by_decoder_norm",
                "dtype",
            )
        },
        **fields,
    )
    share = DividedTopKTrainingSAE(cfg)
    share.load_state_dict(share_of_state(whole.state_dict(), share.own))
    return share


def joined(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Put what the ranks gave for each parameter beside one another, b_dec aside, which must be the same on all."""
    axes = {"W_enc": 1, "b_enc": 0, "W_dec": 0}
    for part in parts:
        assert part["b_dec"].equal(parts[0]["b_dec"])
    return {
        name: torch.cat([part[name] for part in parts], axes[name]) if name in axes else parts[0][name]
        for name in parts[0]
    }

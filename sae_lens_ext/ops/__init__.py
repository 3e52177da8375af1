"""The arithmetic below the architectures: Kronecker scores and multi-budget reconstruction."""

from sae_lens_ext.ops.kronecker import mand, split_pre_latents
from sae_lens_ext.ops.multi_budget import (
    multi_budget_loss,
    multi_budget_loss_naive,
    prefix_reconstructions,
)

__all__ = [
    "mand",
    "multi_budget_loss",
    "multi_budget_loss_naive",
    "prefix_reconstructions",
    "split_pre_latents",
]

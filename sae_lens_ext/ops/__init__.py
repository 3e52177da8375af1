"""The arithmetic below the architectures; each fast form stands beside the naive one it must equal."""

from sae_lens_ext.ops.by_latent import latent_sums, latent_sums_naive
from sae_lens_ext.ops.chunks import has_bags
from sae_lens_ext.ops.dead_latents import dead_latent_loss, dead_latent_loss_naive
from sae_lens_ext.ops.kron_encoder import kron_encode, kron_encode_naive, parent_columns
from sae_lens_ext.ops.kronecker import mand, split_pre_latents
from sae_lens_ext.ops.multi_budget import (
    multi_budget_loss,
    multi_budget_loss_naive,
    prefix_reconstructions,
)
from sae_lens_ext.ops.ranking import top_k, top_k_naive
from sae_lens_ext.ops.sparse_decoder import sparse_decode, sparse_decode_naive
from sae_lens_ext.ops.squared_error import squared_error
from sae_lens_ext.ops.topk_encoder import topk_encode, topk_encode_naive

__all__ = [
    "dead_latent_loss",
    "dead_latent_loss_naive",
    "has_bags",
    "kron_encode",
    "kron_encode_naive",
    "latent_sums",
    "latent_sums_naive",
    "mand",
    "multi_budget_loss",
    "multi_budget_loss_naive",
    "parent_columns",
    "prefix_reconstructions",
    "sparse_decode",
    "sparse_decode_naive",
    "split_pre_latents",
    "squared_error",
    "top_k",
    "top_k_naive",
    "topk_encode",
    "topk_encode_naive",
]

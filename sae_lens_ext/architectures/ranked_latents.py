"""A token's k best latents as (values, indices), and when an SAE has to make the dense ones instead.

A hook on the input or the latents wants to see dense tensors and may change them, so while one is attached
an SAE goes the dense way; so it does on devices where the sparse operations were never tried.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.saes.topk_sae import TopK
from typing_extensions import override

from sae_lens_ext.architectures.levels import largest_budget
from sae_lens_ext.architectures.sae_checks import require_sae_input
from sae_lens_ext.ops import has_bags, top_k


@dataclass(frozen=True)
class RankedLatents:
    """The latents that each token keeps, in descending order."""

    acts: torch.Tensor
    """Activations as `encode` gives them, shape [B, K]; 0 in slots left over."""
    weights: torch.Tensor
    """What the decoder rows are multiplied with, shape [B, K]."""
    indices: torch.Tensor
    """Latent indices, distinct within a token, shape [B, K]."""


class LowestIndexTopK(TopK):
    """SAELens' TopK with a rule for ties: between equals the latent with the lower index is kept."""

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        indices = top_k(flat.detach(), self.k)[1]
        kept = torch.zeros_like(flat).scatter(1, indices, flat.gather(1, indices).relu()).view_as(x)
        return super().forward(kept) if self.use_sparse_activations else kept


def encode_ranked(
    sae: Any, x: torch.Tensor, rank: Callable[[torch.Tensor, int], RankedLatents]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the k latents of each token as `encode_sparse` documents it.

    Args:
        sae: An SAE with `cfg.k`.
        x: Activations, shape [..., d_in].
        rank: Finds the k best latents of the encoder's input [B, d_in].

    Returns:
        Values and latent indices, each [..., k]; values beyond the largest budget trained are 0.
    """
    if goes_dense(sae):
        values, indices = top_k_of_acts(sae.encode(x), sae.cfg.k)
    else:
        inputs = encoder_input(sae, x)
        latents = rank(inputs.reshape(-1, inputs.shape[-1]), sae.cfg.k)
        shape = (*inputs.shape[:-1], sae.cfg.k)
        values, indices = latents.acts.view(shape), latents.indices.view(shape)
    untrained = torch.arange(sae.cfg.k, device=values.device) >= largest_budget(sae.cfg)
    return values.masked_fill(untrained, 0), indices


def top_k_of_acts(feature_acts: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the k largest of dense or COO latents [..., d_sae], each [..., k], differentiable in the values."""
    dense = feature_acts.to_dense() if feature_acts.is_sparse else feature_acts
    indices = top_k(dense.detach().reshape(-1, dense.shape[-1]), k)[1].view(*dense.shape[:-1], k)
    return dense.gather(-1, indices), indices


def encoder_input(sae: Any, x: torch.Tensor) -> torch.Tensor:
    """Prepare activations as `SAE.process_sae_in` does, short of its hook and of subtracting b_dec.

    Raises:
        ValueError: They are no activations of this SAE.
    """
    require_sae_input(sae, x)
    return sae.run_time_activation_norm_fn_in(sae.reshape_fn_in(x.to(sae.dtype)))


def input_bias(sae: Any) -> torch.Tensor | None:
    """Give what is still to be subtracted from `encoder_input`, or None."""
    return sae.b_dec if sae.cfg.apply_b_dec_to_input else None


def goes_dense(sae: Any) -> bool:
    """Tell whether the encoder's dense tensors are needed: a hook sees them, or the device asks for it."""
    watched = (sae.hook_sae_input, sae.hook_sae_acts_pre, sae.hook_sae_acts_post)
    hooked = any(h._forward_pre_hooks or h._forward_hooks or h._backward_hooks for h in watched)
    return hooked or not has_bags(sae.W_enc.device)


def as_coo(latents: RankedLatents, d_sae: int) -> torch.Tensor:
    """Give the latents as a detached sparse tensor [B, d_sae], for SAELens' bookkeeping."""
    n_tokens, k = latents.indices.shape
    token = torch.arange(n_tokens, device=latents.indices.device).repeat_interleave(k)
    return torch.sparse_coo_tensor(
        torch.stack((token, latents.indices.flatten())),
        latents.acts.detach().flatten(),
        (n_tokens, d_sae),
        check_invariants=False,
    )

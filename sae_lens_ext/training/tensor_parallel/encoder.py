"""TopK's encoder over divided latents: as `topk_encode`, with the k best of all ranks' latents kept."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sae_lens_ext.ops.linear_encoder import encoder_gradients
from sae_lens_ext.ops.topk_encoder import topk_scores, unscaled
from sae_lens_ext.ranks import Ranks
from sae_lens_ext.training.tensor_parallel.top_k import kept_candidates


def divided_topk_encode(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    ranks: Ranks,
    *,
    b_in: torch.Tensor | None = None,
    rank_scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode with this rank's latents and keep those that are among the k best of all ranks'.

    Args:
        x: Activations, shape [B, d], the same on every rank; no gradient reaches them.
        W_enc: This rank's encoder columns, shape [d, F/N].
        b_enc: Their biases, shape [F/N].
        k: Latents kept per token, on all ranks together.
        ranks: Who holds the others.
        b_in: Bias subtracted from the input, shape [d]; None for none. Its gradient is this rank's part (see `copy_to_ranks`).
        rank_scale: Latents are ranked by pre-activation times this, shape [F/N] and positive, no gradient reaches it; None for 1.

    Returns:
        Activations ≥ 0 (not scaled) and this rank's indices of them, in 0..F/N−1, each [B, m], in descending order of rank, where
        m ≤ k is as many as the token with the most has on this rank; slots left over have value 0. The activations
        are differentiable once, in W_enc, b_enc and b_in.

    Raises:
        RankError: A rank does not answer.
    """
    values, indices = _DividedTopKEncode.apply(W_enc, b_enc, b_in, x, rank_scale, k, ranks)
    return values, indices


class _DividedTopKEncode(torch.autograd.Function):
    """Not `topk_encode` with a mask behind it: its backward would sum over k uses a token where about k/N are left."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        b_in: torch.Tensor | None,
        x: torch.Tensor,
        rank_scale: torch.Tensor | None,
        k: int,
        ranks: Ranks,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n_own = min(k, W_enc.shape[1])
        scores, indices = topk_scores(x, W_enc, b_enc, n_own, b_in=b_in, rank_scale=rank_scale)
        values = unscaled(scores, indices, rank_scale)
        kept = kept_candidates(scores, k, ranks, "choosing the latents of each token") & (values != 0)
        most = max(1, int(kept.sum(dim=1).max())) if len(x) else 1  # a bag needs one slot at least
        values = values.where(kept, 0)[:, :most].contiguous()
        indices = indices[:, :most].contiguous()
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(x, W_enc, b_in, values, indices)
        return values, indices

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, d_values: torch.Tensor, _: Any
    ) -> tuple[torch.Tensor | None, ...]:
        x, W_enc, b_in, values, indices = ctx.saved_tensors
        needed = (False, *ctx.needs_input_grad[:3])
        gradients = encoder_gradients(needed, d_values * (values > 0), indices, x, W_enc, b_in)
        return *gradients[1:], None, None, None, None

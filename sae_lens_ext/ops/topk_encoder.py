"""TopK's encoder as (values, indices): pre-activations exist for a chunk of tokens at a time.

    z = ReLU(W_encᵀ(x − b_in) + b_enc),   the k largest of each token

The gradient of the pre-activations is zero but for k entries a token, so the encoder's weight gradient
is a sum over uses and no matrix product.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sae_lens_ext.ops.checks import require_count, require_one_precision, require_tensors
from sae_lens_ext.ops.chunks import chunks
from sae_lens_ext.ops.linear_encoder import Encoder, encoder_gradients, outside_inference_mode
from sae_lens_ext.ops.ranking import top_k, top_k_naive


def topk_encode_naive(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    *,
    b_in: torch.Tensor | None = None,
    rank_scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode all latents of all tokens, sort them and keep k.

    Args:
        x: Activations, shape [B, d].
        W_enc: Encoder, shape [d, F].
        b_enc: Encoder bias, shape [F].
        k: Latents kept per token.
        b_in: Bias subtracted from the input, shape [d]; None for none.
        rank_scale: Latents are ranked by pre-activation times this, shape [F] and positive; None for 1.

    Returns:
        Activations ≥ 0 (not scaled) and their latent indices, each [B, k], in descending order of rank;
        between equals the lower index comes first. Slots left over have value 0.

    Raises:
        ValueError: A tensor has another shape or type, or k is out of range.
    """
    k = _require("topk_encode_naive", x, W_enc, b_enc, k, b_in, rank_scale)
    pre = (x if b_in is None else x - b_in) @ W_enc + b_enc
    ranked = pre if rank_scale is None else pre * rank_scale
    scores, indices = top_k_naive(ranked, k)
    return torch.where(scores == 0, 0, pre.gather(1, indices)), indices


def topk_encode(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    *,
    b_in: torch.Tensor | None = None,
    rank_scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do as `topk_encode_naive` without keeping anything of size [B, F].

    Args:
        x: Activations, shape [B, d].
        W_enc: Encoder, shape [d, F].
        b_enc: Encoder bias, shape [F].
        k: Latents kept per token.
        b_in: Bias subtracted from the input, shape [d]; None for none.
        rank_scale: Shape [F] and positive, no gradient reaches it; None for 1.

    Returns:
        Activations and latent indices, each [B, k]; the activations are differentiable once, in x, W_enc,
        b_enc and b_in. The latents are the naive form's, the index of a slot with value 0 aside.

    Raises:
        ValueError: As the naive form.
    """
    k = _require("topk_encode", x, W_enc, b_enc, k, b_in, rank_scale)
    values, indices = _TopKEncode.apply(outside_inference_mode(x), W_enc, b_enc, b_in, rank_scale, k)
    return values, indices


def topk_scores(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    *,
    b_in: torch.Tensor | None = None,
    rank_scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give what `topk_encode` ranks by, of the latents that it keeps.

    Args: as there.

    Returns:
        Scores ≥ 0, pre-activations times `rank_scale`, and latent indices, each [B, k], descending. Not differentiable.
    """
    encoder = Encoder(W_enc, b_enc, b_in)
    scores = x.new_empty(len(x), k, dtype=encoder.dtype)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for tokens in chunks(len(x), W_enc.shape[1], x.device):
        pre = encoder(x[tokens])
        ranked = pre if rank_scale is None else pre.mul_(rank_scale)
        scores[tokens], indices[tokens] = top_k(ranked, k)
    return scores, indices


def unscaled(scores: torch.Tensor, indices: torch.Tensor, rank_scale: torch.Tensor | None) -> torch.Tensor:
    """Turn what latents were ranked by, [B, k], into their activations."""
    if rank_scale is None:
        return scores
    return torch.where(scores != 0, scores / rank_scale[indices], 0)  # NaN stays NaN


def _require(
    caller: str,
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    b_in: torch.Tensor | None,
    rank_scale: torch.Tensor | None,
) -> int:
    """Give k as an int if all arguments fit each other, else raise ValueError."""
    sizes = require_tensors(
        caller,
        W_enc=(W_enc, "d F"),
        x=(x, "B d"),
        b_enc=(b_enc, "F"),
        b_in=(b_in, "d or None"),
        rank_scale=(rank_scale, "F or None"),
    )
    require_one_precision(caller, {"x": x, "b_in": b_in, "W_enc": W_enc})
    return require_count(caller, "k", k, sizes["F"], "the number of latents")


class _TopKEncode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        b_in: torch.Tensor | None,
        rank_scale: torch.Tensor | None,
        k: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = topk_scores(x, W_enc, b_enc, k, b_in=b_in, rank_scale=rank_scale)
        values = unscaled(values, indices, rank_scale)
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(x, W_enc, b_in, values, indices)
        return values, indices

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, d_values: torch.Tensor, _: Any
    ) -> tuple[torch.Tensor | None, ...]:
        x, W_enc, b_in, values, indices = ctx.saved_tensors
        d_pre = d_values * (values > 0)
        gradients = encoder_gradients(ctx.needs_input_grad[:4], d_pre, indices, x, W_enc, b_in)
        return *gradients, None, None

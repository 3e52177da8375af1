"""KronSAE's encoder as (values, indices): an exact top-k over the Kronecker grid that never builds it.

A head's best latent scores mAND(max_i u_i, max_j v_j), because mAND grows with either parent. So the k
best latents of a token lie in the k heads with the best maxima: only those are expanded, k·m·n
candidates instead of h·m·n. Between equals the lower latent index comes first; heads hold consecutive
indices, so the same rule among heads' maxima prunes nothing that the rule among latents would keep.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sae_lens_ext.ops.checks import (
    Sizes,
    require_count,
    require_indices,
    require_one_precision,
    require_tensors,
)
from sae_lens_ext.ops.chunks import chunks
from sae_lens_ext.ops.kronecker import mand, require_heads, split_pre_latents
from sae_lens_ext.ops.linear_encoder import Encoder, encoder_gradients, outside_inference_mode
from sae_lens_ext.ops.ranking import LARGEST_INDEX, top_k_among, top_k_naive


def kron_encode_naive(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    *,
    base_dim: int,
    extension_dim: int,
    b_in: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score every pair of every head, sort them and keep k.

    Args:
        x: Activations, shape [B, d].
        W_enc: Fused encoder, shape [d, h(m+n)], head-major, in each head first the m base columns.
        b_enc: Its bias, shape [h(m+n)].
        k: Latents kept per token.
        base_dim: m.
        extension_dim: n.
        b_in: Bias subtracted from the input, shape [d]; None for none.

    Returns:
        mAND scores and latent indices ((head·m) + i)·n + j, each [B, k], descending; between equals the
        lower index comes first. Slots left over have value 0.

    Raises:
        ValueError: A tensor has another shape or type, or a size is out of range.
    """
    k, base_dim, extension_dim = _require(
        "kron_encode_naive", x, W_enc, b_enc, k, base_dim, extension_dim, b_in
    )
    fused = (x if b_in is None else x - b_in) @ W_enc + b_enc
    scores = mand(*split_pre_latents(fused, base_dim, extension_dim))
    indices = top_k_naive(scores, k)[1]
    return scores.gather(1, indices), indices


def kron_encode(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    *,
    base_dim: int,
    extension_dim: int,
    b_in: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do as `kron_encode_naive` without the [B, F] scores, and with a k-sparse gradient.

    Args:
        x: Activations, shape [B, d].
        W_enc: Fused encoder, shape [d, h(m+n)].
        b_enc: Its bias, shape [h(m+n)].
        k: Latents kept per token.
        base_dim: m.
        extension_dim: n.
        b_in: Bias subtracted from the input, shape [d]; None for none.

    Returns:
        Scores and latent indices, each [B, k]; the scores are differentiable once, in x, W_enc, b_enc and
        b_in. The latents are the naive form's, the index of a slot with value 0 aside.

    Raises:
        ValueError: As the naive form.
    """
    k, base_dim, extension_dim = _require("kron_encode", x, W_enc, b_enc, k, base_dim, extension_dim, b_in)
    values, indices = _KronEncode.apply(
        outside_inference_mode(x), W_enc, b_enc, b_in, k, base_dim, extension_dim
    )
    return values, indices


def _require(
    caller: str,
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    base_dim: int,
    extension_dim: int,
    b_in: torch.Tensor | None,
) -> tuple[int, int, int]:
    """Give k, m and n as ints if all arguments fit each other, else raise ValueError."""
    sizes = require_tensors(
        caller, W_enc=(W_enc, "d h(m+n)"), x=(x, "B d"), b_enc=(b_enc, "h(m+n)"), b_in=(b_in, "d or None")
    )
    require_one_precision(caller, {"x": x, "b_in": b_in, "W_enc": W_enc})
    m, n, n_heads = require_heads(caller, "W_enc", sizes["h(m+n)"], base_dim, extension_dim)
    return require_count(caller, "k", k, n_heads * m * n, "the number of latents"), m, n


class _KronEncode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        b_in: torch.Tensor | None,
        k: int,
        base_dim: int,
        extension_dim: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        width = base_dim + extension_dim
        # Plane-major, [d, (m+n)·h]: the maxima over a head's elements then run over whole rows.
        planes = _planes(W_enc, width).contiguous()
        encoder = Encoder(planes.flatten(1), _planes(b_enc, width).flatten(), b_in)
        parents = x.new_empty(2, len(x), k, dtype=encoder.dtype)  # u_i and v_j of the latents kept
        indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
        for tokens in chunks(len(x), 2 * W_enc.shape[1], x.device):
            elements = encoder(x[tokens]).unflatten(1, (width, -1))  # [t, m+n, h]
            parents[0, tokens], parents[1, tokens], indices[tokens] = _best_pairs(elements, base_dim, k)
        roots = torch.where(parents <= 0, 0, parents).sqrt()  # NaN is not off, and stays
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(x, W_enc, b_in, roots, indices)
        ctx.sizes = base_dim, extension_dim
        return roots[0] * roots[1], indices

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, d_values: torch.Tensor, _: Any
    ) -> tuple[torch.Tensor | None, ...]:
        x, W_enc, b_in, roots, indices = ctx.saved_tensors
        # ∂√(uv)/∂u = √v / 2√u, and 0 where a parent is off.
        d_parents = torch.where(roots > 0, d_values * roots.flip(0) / (2 * roots), 0)
        columns = parent_columns(indices, *ctx.sizes)
        gradients = encoder_gradients(
            ctx.needs_input_grad[:4],
            torch.cat(tuple(d_parents), dim=1),
            torch.cat(columns, dim=1),
            x,
            W_enc,
            b_in,
        )
        return *gradients, None, None, None


def latent_parts(
    latents: torch.Tensor, base_dim: int, extension_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take a latent index ((head·m) + i)·n + j apart into head, i and j, each of its shape."""
    base = latents.div(extension_dim, rounding_mode="floor")
    head = base.div(base_dim, rounding_mode="floor")
    return head, base - head * base_dim, latents - base * extension_dim


def parent_columns(
    latents: torch.Tensor, base_dim: int, extension_dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the columns of the fused encoder in which a latent's parents u_i and v_j stand.

    Args:
        latents: Latent indices, any shape.
        base_dim: m.
        extension_dim: n.

    Returns:
        Columns of u_i and of v_j, each of the shape of `latents`.

    Raises:
        ValueError: The latents are no tensor of whole numbers of at least 0, or a size is below 1.
    """
    base_dim = require_count("parent_columns", "base_dim", base_dim, LARGEST_INDEX, "elements of a head")
    extension_dim = require_count(
        "parent_columns", "extension_dim", extension_dim, LARGEST_INDEX, "elements of a head"
    )
    require_indices(
        "parent_columns", "latents", latents, "...", Sizes(), LARGEST_INDEX + 1, "latents at most"
    )
    head, i, j = latent_parts(latents, base_dim, extension_dim)
    first = head * (base_dim + extension_dim)
    return first + i, first + base_dim + j


def _planes(fused: torch.Tensor, width: int) -> torch.Tensor:
    """View head-major columns [..., h·(m+n)] as [..., m+n, h]."""
    return fused.unflatten(-1, (-1, width)).transpose(-1, -2)


def _best_pairs(
    elements: torch.Tensor, base_dim: int, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the k best pairs of each token; elements [t, m+n, h] → u, v and latent indices, each [t, k]."""
    width, n_heads = elements.shape[1:]
    extension_dim = width - base_dim
    best_u, best_v = elements[:, :base_dim].amax(dim=1), elements[:, base_dim:].amax(dim=1)
    best_scores = best_u.relu().sqrt() * best_v.relu().sqrt()
    head_ids = torch.arange(n_heads, device=elements.device).expand_as(best_scores)
    heads = top_k_among(best_scores, head_ids, min(k, n_heads))[1]

    roots = elements.gather(2, heads.unsqueeze(1).expand(-1, width, -1)).relu().sqrt()  # [t, m+n, ≤ k]
    scores = roots[:, :base_dim].unsqueeze(2) * roots[:, base_dim:].unsqueeze(1)  # [t, m, n, ≤ k]
    grid = torch.arange(base_dim * extension_dim, device=elements.device).view(base_dim, extension_dim, 1)
    latents = (base_dim * extension_dim * heads)[:, None, None] + grid
    latents = top_k_among(scores.flatten(1), latents.flatten(1), k)[1]

    head, i, j = latent_parts(latents, base_dim, extension_dim)
    flat = elements.flatten(1)
    return flat.gather(1, i * n_heads + head), flat.gather(1, (base_dim + j) * n_heads + head), latents

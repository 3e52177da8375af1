"""Sums over the uses of each latent: the weight gradients of everything that is k-sparse per token.

The gradient of a decoder row is Σ z g over the tokens that use the latent, that of an encoder column
Σ δ x. As a matrix product this is [F, B] @ [B, d] with a left side that is zero but for k entries a
token. Here the uses are sorted by latent and each latent's bag is summed, which reads B·k rows.
"""

import torch
from torch.nn.functional import embedding_bag

from sae_lens_ext.ops.checks import require_count, require_indices, require_tensors
from sae_lens_ext.ops.ranking import LARGEST_INDEX


def latent_sums_naive(
    weights: torch.Tensor, latents: torch.Tensor, rows: torch.Tensor, n_latents: int
) -> torch.Tensor:
    """Sum over tokens the weighted row of each latent, as a matrix product.

    Args:
        weights: δ, shape [B, k].
        latents: Which latent each weight belongs to, in 0..n_latents−1, shape [B, k].
        rows: One vector per token, shape [B, d].
        n_latents: F.

    Returns:
        Σ_{b, r: latents[b, r] = f} weights[b, r] · rows[b] for every f, shape [F, d].

    Raises:
        ValueError: A tensor has another shape or type, or a latent is out of range.
    """
    n_latents = _require("latent_sums_naive", weights, latents, rows, n_latents)
    dense = rows.new_zeros(len(rows), n_latents).scatter_add_(1, latents.long(), weights.to(rows.dtype))
    return dense.T @ rows


def latent_sums(
    weights: torch.Tensor,
    latents: torch.Tensor,
    rows: torch.Tensor,
    n_latents: int,
    row_of_use: torch.Tensor | None = None,
) -> torch.Tensor:
    """Do as `latent_sums_naive` without the [B, F] matrix; sums run in float32 or better.

    Args:
        weights: δ, shape [B, k].
        latents: Shape [B, k].
        rows: Shape [B, d], or [N, d] with `row_of_use`.
        n_latents: F.
        row_of_use: Index into `rows` for each weight, shape [B, k]; without it, the token's own row.

    Returns:
        Shape [F, d], in the precision of the sums. The order of summation is fixed: deterministic.

    Raises:
        ValueError: As the naive form.
    """
    n_latents = _require("latent_sums", weights, latents, rows, n_latents, row_of_use)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32)).contiguous()
    uses = latents.flatten().int()  # sorts faster than int64
    order = uses.argsort(stable=True)
    counts = torch.bincount(uses, minlength=n_latents)
    if row_of_use is None:
        source = order.div(latents.shape[-1], rounding_mode="floor")
    else:
        source = row_of_use.flatten()[order]
    weights = weights.flatten().to(rows.dtype)[order]
    return embedding_bag(source, rows, counts.cumsum(0) - counts, per_sample_weights=weights, mode="sum")


def _require(
    caller: str,
    weights: torch.Tensor,
    latents: torch.Tensor,
    rows: torch.Tensor,
    n_latents: int,
    row_of_use: torch.Tensor | None = None,
) -> int:
    """Give n_latents as an int if all arguments fit each other, else raise ValueError."""
    sizes = require_tensors(
        caller, weights=(weights, "B k"), rows=(rows, "B d" if row_of_use is None else "N d")
    )
    n = require_count(caller, "n_latents", n_latents, LARGEST_INDEX, "as many as int32 counts")
    require_indices(caller, "latents", latents, "B k", sizes, n, "latents (n_latents)")
    if row_of_use is not None:
        require_indices(caller, "row_of_use", row_of_use, "B k", sizes, sizes["N"], "rows")
    return n

"""The order in which latents are kept: larger score first and, between equals, the lower index.

`torch.topk` breaks ties as it likes, differently by device and by shape. A strict order is what lets a
pruned search keep exactly the latents that a full sort keeps: its definition is `top_k_naive`.

Scores and indices travel together as one int64, the score's bits above the inverted index, so that one
integer comparison decides. Scores at or below 0 never fire: all of them count as 0.
"""

import torch

from sae_lens_ext.ops.checks import require_count, require_tensors

LARGEST_INDEX = 2**31 - 1
GROUP = 16


def top_k_naive(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the k largest scores of each row by sorting all of them.

    Args:
        scores: Shape [..., F]; negative ones count as 0.
        k: How many to keep, at most F.

    Returns:
        Values ≥ 0, descending, and their indices, each [..., k]. Among equals the lower index comes first.

    Raises:
        ValueError: The scores are no floating-point tensor, or k is out of range.
    """
    sizes = require_tensors("top_k", scores=(scores, "... F"))
    k = require_count("top_k", "k", k, sizes["F"], "the number of scores")
    values, indices = scores.relu().sort(dim=-1, descending=True, stable=True)
    return values[..., :k], indices[..., :k]


def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Do as `top_k_naive`, through `torch.topk`; only rows in which it had to break a tie are done again.

    Not differentiable: gather from the scores with the indices where gradients are needed. A slot whose
    value is 0 may carry another index than the naive form's.

    Args:
        scores: Shape [B, F]. Double precision is sorted as in the naive form.
        k: How many to keep, at most F.

    Returns:
        Values and indices as `top_k_naive` gives them.

    Raises:
        ValueError: As the naive form, and if the scores are no matrix.
    """
    sizes = require_tensors("top_k", scores=(scores, "B F"))
    k = require_count("top_k", "k", k, sizes["F"], "the number of scores")
    if scores.dtype == torch.float64 or scores.is_meta:
        return top_k_naive(scores, k)
    # One more than asked for shows a tie between the last one kept and the first one not.
    values, indices = _top_k_in_any_order_of_ties(scores, min(k + 1, scores.shape[-1]))
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > 0)).any(dim=-1)
    values, indices = values[:, :k].relu(), indices[:, :k]
    if tied.any():
        again = scores[tied]
        latents = torch.arange(scores.shape[-1], device=scores.device)
        values[tied], indices[tied] = top_k_among(again, latents.expand_as(again), k)
    return values, indices


def top_k_among(scores: torch.Tensor, indices: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the k largest of some scored latents, in whatever order they come.

    Args:
        scores: Shape [B, C]; negative ones count as 0.
        indices: Which latent each score belongs to, in 0..2³¹−1, distinct within a row, shape [B, C].
        k: How many to keep, at most C.

    Returns:
        Values ≥ 0, descending, and their latents, each [B, k]. Among equals the lower index comes first.
    """
    if scores.dtype == torch.float64:  # has no room for an index in 64 bits
        indices, order = indices.sort(dim=-1)
        values, kept = top_k_naive(scores.gather(-1, order), k)
        return values, indices.gather(-1, kept)
    values, kept = _unpack(_pack(scores, indices).topk(k, dim=-1).values)
    return values.to(scores.dtype), kept


def _top_k_in_any_order_of_ties(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Do as `scores.topk(k)`, in groups: the k largest lie in the k groups with the largest maxima."""
    n_groups, rest = divmod(scores.shape[-1], GROUP)
    if rest or n_groups <= 2 * k:
        return scores.topk(k, dim=-1)
    grouped = scores.unflatten(-1, (GROUP, n_groups))  # a group is a column: g, g + n_groups, …
    groups = grouped.amax(dim=-2).topk(k, dim=-1, sorted=False).indices
    candidates = grouped.gather(-1, groups.unsqueeze(-2).expand(-1, GROUP, -1)).flatten(-2)
    values, position = candidates.topk(k, dim=-1)
    row = position.div(k, rounding_mode="floor")
    return values, row * n_groups + groups.gather(-1, position - row * k)


def _pack(scores: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Join scores and indices into int64 keys whose order is: larger score, then lower index."""
    # The bits of floats ≥ 0, read as integers, are in the order of the floats, and NaN above them; abs takes the sign off −0.0 and −NaN.
    bits = scores.float().relu().abs().view(torch.int32).long()
    return (bits << 32) | (LARGEST_INDEX - indices)


def _unpack(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `_pack`: float32 scores and int64 indices."""
    return (keys >> 32).int().view(torch.float32), LARGEST_INDEX - (keys & LARGEST_INDEX)

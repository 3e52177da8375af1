"""Sums over tokens from which the cosines of persistence follow, with every token seen once."""

from dataclasses import dataclass

import torch

LEAST_RESULTANT = 1e-6
"""‖Σ Δh‖ / Σ ‖Δh‖ up to which a sum is the rounding of vectors that cancel, and has no direction."""


class DirectionSums:
    """Sums over the tokens of each prompt's sequences of what one vector changes, at some blocks.

    Args:
        n_blocks: Blocks.
        n_rows: Prompts: sequences that share one share a row.
        d_model: Width.
    """

    def __init__(self, n_blocks: int, n_rows: int, d_model: int) -> None:
        self.units = torch.zeros(n_blocks, n_rows, d_model, dtype=torch.float64)
        """Σ_t Δh/‖Δh‖. A token at which nothing changed has no direction, and is left out."""
        self.vectors = torch.zeros_like(self.units)
        """Σ_t Δh."""
        self.norms = torch.zeros(n_blocks, n_rows, dtype=torch.float64)
        """Σ_t ‖Δh‖."""
        self.squares = torch.zeros_like(self.norms)
        """Σ_t ‖Δh‖²."""
        self.directed = torch.zeros_like(self.norms)
        """Tokens at which something changed."""

    def add(self, block: int, rows: list[int], gap: torch.Tensor) -> None:
        """Add a batch.

        Args:
            block: Which of the blocks.
            rows: The row of each sequence, [batch].
            gap: Δh, [batch, pos, d_model], float64, 0 at tokens that do not count.
        """
        norm = gap.norm(dim=-1)
        unit = gap / torch.where(norm > 0, norm, 1.0)[..., None]
        at = torch.tensor(rows)
        for total, of_tokens in (
            (self.units, unit),
            (self.vectors, gap),
            (self.norms, norm),
            (self.squares, norm.square()),
            (self.directed, (norm > 0).double()),
        ):
            total[block].index_add_(0, at, of_tokens.sum(dim=1).cpu())


@dataclass(frozen=True, eq=False)
class CosineSums:
    """Sums of cosines over the tokens of each prompt's sequences, [n_blocks, n_rows] each; NaN where there is no cosine."""

    local: torch.Tensor
    """Σ_t cos(Δh(t), s), s the block's own vector."""
    mean: torch.Tensor
    """Σ_t cos(Δh(t), mean_t' Δh(t'))."""
    others: torch.Tensor
    """The same, the mean being over the tokens of the other prompts' sequences."""


def cosine_sums(sums: DirectionSums, local: torch.Tensor) -> CosineSums:
    """Turn sums of vectors into sums of cosines.

    No second pass over the tokens is needed for the cosine with a mean that is known at the end only, since
    Σ_t cos(Δh(t), m) = Σ_t (Δh(t)/‖Δh(t)‖) · m/‖m‖ = (Σ_t Δh(t)/‖Δh(t)‖) · m/‖m‖, and the direction of a mean is that of the sum.

    Args:
        sums: The sums.
        local: The vector of each block, [n_blocks, d_model], float64; NaN where there is none.
    """
    total = sums.vectors.sum(dim=1)
    total_norm = sums.norms.sum(dim=1)
    others = _direction(total[:, None] - sums.vectors, total_norm[:, None] - sums.norms)
    return CosineSums(
        local=torch.einsum("jrd,jd->jr", sums.units, local / local.norm(dim=-1, keepdim=True)),
        mean=torch.einsum("jrd,jd->jr", sums.units, _direction(total, total_norm)),
        others=(sums.units * others).sum(dim=-1),
    )


def null_local(sums: DirectionSums) -> torch.Tensor:
    """Give the standard deviation of mean_t cos(Δh(t), v) over random directions v, [n_blocks].

    The mean of the cosines is u · v, with u the mean of the unit vectors; of a random direction in d dimensions its variance is ‖u‖²/d.
    """
    mean_unit = sums.units.sum(dim=1).norm(dim=-1) / sums.directed.sum(dim=1)
    return mean_unit / sums.units.shape[-1] ** 0.5


def null_mean(sums: DirectionSums) -> torch.Tensor:
    """Give what mean_t cos(Δh(t), mean_t' Δh(t')) would be if each Δh had its norm and a random direction, [n_blocks].

    The mean holds t itself. With independent directions Δh(t) · Σ Δh(t') is ‖Δh(t)‖² in expectation, and ‖Σ Δh(t')‖² is Σ ‖Δh(t')‖². So
    the mean of the cosines is Σ‖Δh‖ / (n √(Σ‖Δh‖²)), for large d: 1/√n if the norms are equal.
    """
    return sums.norms.sum(dim=1) / (sums.directed.sum(dim=1) * sums.squares.sum(dim=1).sqrt())


def _direction(total: torch.Tensor, of_norms: torch.Tensor) -> torch.Tensor:
    """Give the directions of sums.

    Args:
        total: Sums of vectors, [..., d_model].
        of_norms: Sums of the norms of these vectors, [...].

    Returns:
        [..., d_model], of length 1; NaN where the vectors cancel.
    """
    norm = total.norm(dim=-1)
    norm = torch.where(norm > LEAST_RESULTANT * of_norms, norm, torch.nan)
    return total / norm[..., None]

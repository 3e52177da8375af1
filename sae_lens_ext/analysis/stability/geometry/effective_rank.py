"""How many dimensions a set of directions fills, and how much of other directions lies in its main ones.

For rows X [n, d] of unit length, with singular values σ and right singular vectors v, largest first:

    ER   = exp(−Σ p ln p),  p = σ / Σσ                     effective rank, 1 to min(n, d); our reading of arXiv 2606.12138
    E(r) = mean over rows u of Σ_{i≤r} (u · v_i)²          energy of other unit rows u in the top-r subspace, 0 to 1

Both follow from second moments: σ² and v are those of M = XᵀX / n up to a factor, and E(r) = Σ_{i≤r} v_iᵀ M_u v_i is linear in
the second moment of the other rows. In a random r-dimensional subspace the energy is r/d on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


def second_moment(rows: torch.Tensor) -> torch.Tensor:
    """Give XᵀX / n of rows [n, d] in double precision, [d, d]; of unit rows its trace is 1."""
    rows = rows.double()
    return rows.T @ rows / len(rows)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values and right singular vectors of a set of rows. Directions of singular value 0 complete the basis."""

    singular_values: torch.Tensor
    """[d], float64, descending, not negative, over √n."""
    directions: torch.Tensor
    """[d, d], float64: the right singular vectors as rows, in that order."""

    @classmethod
    def of_moment(cls, moment: torch.Tensor) -> "Spectrum":
        """Take the spectrum of rows whose second moment [d, d] is given."""
        squares, vectors = torch.linalg.eigh(moment)
        rounding = squares[-1] * len(moment) * torch.finfo(moment.dtype).eps
        squares = torch.where(squares > rounding, squares, 0)
        return cls(squares.flip(0).sqrt(), vectors.T.flip(0))

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the singular values, normalised to sum 1."""
        p = self.singular_values / self.singular_values.sum()
        return float(torch.special.entr(p).sum().exp())

    def energy(self, moment: torch.Tensor, ranks: Sequence[int]) -> torch.Tensor:
        """Give how much of other rows lies in the top-r subspace.

        Args:
            moment: Second moment of the others, [d, d]; the mean of several sets' gives the mean of their energies.
            ranks: The r, each 1 to d.

        Returns:
            [len(ranks)], 0 to 1 for unit rows.
        """
        leading = self.directions[: max(ranks)]
        by_direction = ((leading @ moment) * leading).sum(dim=1)
        return by_direction.cumsum(dim=0)[torch.tensor(ranks) - 1]

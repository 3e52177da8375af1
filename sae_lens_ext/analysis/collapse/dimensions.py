"""Mean and standard deviation of each dimension over a data set that is read in parts."""

import torch


class DimensionStatistics:
    """Sums over positions, in float64 on the CPU; parts are merged by Chan's formula, so that a large mean costs no precision.

    Args:
        d: Dimensions.
    """

    def __init__(self, d: int) -> None:
        self.n = 0
        """Positions read."""
        self.mean = torch.zeros(d, dtype=torch.float64)
        """Mean of each dimension, [d]."""
        self._squares = torch.zeros(d, dtype=torch.float64)
        self._low = torch.full((d,), torch.inf, dtype=torch.float64)
        self._high = torch.full((d,), -torch.inf, dtype=torch.float64)

    def add(self, x: torch.Tensor) -> None:
        """Read some positions, [..., d]."""
        rows = x.detach().to("cpu", torch.float64).flatten(end_dim=-2)
        n = len(rows)
        mean = rows.mean(dim=0)
        gap = mean - self.mean
        self._squares += (rows - mean).square().sum(dim=0) + gap.square() * (self.n * n / (self.n + n))
        self.mean = self.mean + gap * (n / (self.n + n))
        self.n += n
        self._low = torch.minimum(self._low, rows.amin(dim=0))
        self._high = torch.maximum(self._high, rows.amax(dim=0))

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation of each dimension over the population, [d]; exactly 0 where it never changes."""
        return torch.where(self._low == self._high, 0.0, (self._squares / self.n).sqrt())

    def z_score(self, x: torch.Tensor) -> torch.Tensor:
        """Give (x − mean) / std, [..., d], float64 on the CPU; 0 in a dimension that never changes."""
        std = self.std
        inverse = torch.where(std > 0, 1 / std, 0.0)
        return (x.detach().to("cpu", torch.float64) - self.mean) * inverse

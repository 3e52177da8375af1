"""Explained variance over batches of any number and precision."""

import torch


class ExplainedVariance:
    """SAELens' explained variance, 1 − Σ‖x − x̂‖² / Σ‖x − mean x‖², from sums in float64.

    SAELens' own calculator squares and sums a batch in float32 and takes ‖mean x‖² off the mean of ‖x‖². Where all rows have much in
    common, as those of a residual stream do, the difference keeps few digits, or none. Here each batch is centred, and batches are
    merged by Chan's formula.
    """

    def __init__(self) -> None:
        self.num_samples = 0
        """Rows read."""
        self.sum_squared_residual = 0.0
        """Σ‖x − x̂‖²."""
        self._variation = 0.0
        self._mean: torch.Tensor | None = None

    def add_batch(self, sae_output: torch.Tensor, hidden_acts: torch.Tensor) -> None:
        """Read a batch.

        Args:
            sae_output: x̂, [n, d].
            hidden_acts: x, [n, d].
        """
        n = len(hidden_acts)
        if n == 0:
            return
        x, x_hat = _double(hidden_acts), _double(sae_output)
        mean = x.mean(dim=0)
        self.sum_squared_residual += float((x - x_hat).square().sum())
        self._variation += float((x - mean).square().sum())
        mean = mean.cpu()
        if self._mean is None:
            self._mean = mean
        gap, total = mean - self._mean, self.num_samples + n
        self._variation += float(gap.square().sum()) * (self.num_samples * n / total)
        self._mean = self._mean + gap * (n / total)
        self.num_samples = total

    def compute(self) -> float:
        """Give the explained variance of all rows; as SAELens does, 0 of no rows, and of rows that do not vary 1 where x̂ is x, else 0."""
        if self.num_samples == 0:
            return 0.0
        variance, mse = self._variation / self.num_samples, self.sum_squared_residual / self.num_samples
        if variance < 1e-10:
            return 1.0 if mse < 1e-10 else 0.0
        return 1.0 - mse / variance


def _double(x: torch.Tensor) -> torch.Tensor:
    """Give a tensor in float64, which Apple's GPUs do not have."""
    return x.to("cpu" if x.device.type == "mps" else x.device).to(torch.float64)

"""A number with its 95 % bootstrap interval."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    """The number."""
    low: float | None
    """Lower end of the interval; None if there was one prompt only, over which nothing can be resampled."""
    high: float | None
    """Upper end, or None."""

    def __str__(self) -> str:
        return (
            f"{self.value:.3f}"
            if self.low is None
            else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"
        )


def resamples(n: int, n_resamples: int, seed: int) -> NDArray[np.int64]:
    """Draw which of n things are in each bootstrap sample, [1 + n_resamples, n]; the first sample is the things themselves."""
    drawn = np.random.default_rng(seed).integers(n, size=(n_resamples, n))
    return np.concatenate([np.arange(n)[None], drawn])


def bootstrap_weights(n: int, n_resamples: int, seed: int) -> NDArray[np.float64]:
    """Give how often each of n things is in each bootstrap sample, [1 + n_resamples, n]; the first sample is the things themselves."""
    drawn = resamples(n, n_resamples, seed)
    weights = np.zeros(drawn.shape)
    np.add.at(weights, (np.arange(len(drawn))[:, None], drawn), 1)
    return weights


def estimate(of_samples: NDArray[np.float64], n: int) -> Estimate:
    """Make an estimate of a number's values over samples, [1 + n_resamples], the first being that of all n things as they are."""
    if n == 1:
        return Estimate(float(of_samples[0]), None, None)
    low, high = np.percentile(of_samples[1:], _INTERVAL)
    return Estimate(float(of_samples[0]), float(low), float(high))


def mean_estimate(values: NDArray[np.float64], *, n_resamples: int = 2000, seed: int = 0) -> Estimate:
    """Estimate a mean by resampling what it is the mean of.

    Args:
        values: One number for each prompt, text or whatever is resampled, [n].
        n_resamples: Bootstrap samples.
        seed: Of these.
    """
    return estimate(values[resamples(len(values), n_resamples, seed)].mean(axis=1), len(values))

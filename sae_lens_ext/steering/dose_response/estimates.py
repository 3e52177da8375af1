"""Means over prompts, what is made of them, and their bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["activate", "suppress"]
MODES: tuple[Mode, ...] = ("activate", "suppress")
"""Whether a behaviour is wanted or unwanted: score = behaviour × coherence, or (1 − behaviour) × coherence."""

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
    """Draw which of n things are in each bootstrap sample, [n_resamples, n]; the first sample is the things themselves."""
    drawn = np.random.default_rng(seed).integers(n, size=(n_resamples, n))
    return np.concatenate([np.arange(n)[None], drawn])


def estimate(of_samples: NDArray[np.float64], n: int) -> Estimate:
    """Make an estimate of a number's values over samples, [1 + n_resamples], the first being that of all n things as they are."""
    if n == 1:
        return Estimate(float(of_samples[0]), None, None)
    low, high = np.percentile(of_samples[1:], _INTERVAL)
    return Estimate(float(of_samples[0]), float(low), float(high))


def dose_estimates(
    by_prompt: Mapping[str, NDArray[np.float64]],
    unsteered: Mapping[str, NDArray[np.float64]],
    mode: Mode,
    samples: NDArray[np.int64],
) -> dict[str, Estimate]:
    """Estimate everything that is measured on completions.

    Args:
        by_prompt: "behaviour", "cross_entropy" and "distinct_bigrams", each [n_prompts].
        unsteered: The last two of the unsteered model's own completions, each [n_prompts].
        mode: One of `MODES`.
        samples: Which prompts are in each bootstrap sample, [1 + n_resamples, n_prompts].

    Returns:
        These three, "coherence" = exp(min(0, CE₀ − CE)) · min(1, D/D₀) of the mean cross-entropies and shares of distinct bigrams, and "score".
    """
    means = {name: values[samples].mean(axis=1) for name, values in by_prompt.items()}
    own = {name: unsteered[name][samples].mean(axis=1) for name in ("cross_entropy", "distinct_bigrams")}
    likelihood = np.exp(np.minimum(0, own["cross_entropy"] - means["cross_entropy"]))
    variety = means["distinct_bigrams"] / np.maximum(own["distinct_bigrams"], np.finfo(float).tiny)
    means["coherence"] = likelihood * np.minimum(1, variety)
    shown = means["behaviour"] if mode == "activate" else 1 - means["behaviour"]
    means["score"] = shown * means["coherence"]
    return {name: estimate(values, samples.shape[1]) for name, values in means.items()}


def distinct_share(tokens: Sequence[int]) -> float:
    """Give the share of distinct ones among a completion's pairs of neighbouring tokens; 1 where there is no pair to repeat."""
    pairs = list(pairwise(tokens))
    return len(set(pairs)) / len(pairs) if pairs else 1.0

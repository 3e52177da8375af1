"""Means over prompts, what is made of them, and their bootstrap intervals."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.bootstrap import Estimate, estimate

Mode = Literal["activate", "suppress"]
MODES: tuple[Mode, ...] = ("activate", "suppress")
"""Whether a behaviour is wanted or unwanted: score = behaviour × coherence, or (1 − behaviour) × coherence."""


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

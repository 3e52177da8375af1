"""Means over generated tokens, and their intervals by a bootstrap over prompts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.bootstrap import Estimate, bootstrap_weights, estimate


@dataclass(frozen=True, eq=False)
class PromptResamples:
    """How often each prompt is in each bootstrap sample; its completions and their tokens go together, as they are not independent."""

    weights: NDArray[np.float64]
    """[1 + n_resamples, n_prompts]; the first sample is the prompts as they are."""

    @classmethod
    def draw(cls, n_prompts: int, n_resamples: int, seed: int) -> "PromptResamples":
        """Draw bootstrap samples of prompts."""
        return cls(bootstrap_weights(n_prompts, n_resamples, seed))

    def mean(self, values: NDArray[np.float64], prompt: NDArray[np.int64]) -> Estimate:
        """Estimate the mean of values, all tokens counting alike.

        Args:
            values: [n].
            prompt: The prompt of each, [n], from 0.

        Returns:
            The mean; NaN if there is no value, without an interval if they are of one prompt.
        """
        return self.ratio(values, np.ones(len(values)), prompt)

    def ratio(
        self, over: NDArray[np.float64], under: NDArray[np.float64], prompt: NDArray[np.int64]
    ) -> Estimate:
        """Estimate Σ over / Σ under, as `mean`; samples in which Σ under is 0 are left out."""
        n_prompts = self.weights.shape[1]
        numerator, denominator = (
            self.weights @ np.bincount(prompt, weights=sums, minlength=n_prompts) for sums in (over, under)
        )
        if not denominator[0] > 0:
            return Estimate(float("nan"), None, None)
        known = denominator > 0
        n = len(np.unique(prompt)) if known[1:].any() else 1
        return estimate(numerator[known] / denominator[known], n)

"""From single interventions to means with intervals, by a bootstrap over texts."""

from dataclasses import dataclass

import numpy as np

N_BOOTSTRAP = 1_000
_LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class PairedDifference:
    """How much more one method changes than another, on the same targets."""

    first: str
    """A method."""
    second: str
    """The one it is compared with."""
    mean: float | None
    """Mean of first − second over the targets; positive: the first does more. None if there are no such targets."""
    low: float | None
    """Lower end of the 95 % interval, by bootstrap over texts."""
    high: float | None
    """Upper end."""
    n_pairs: int
    """Targets at which the predecessors of both are active."""


def draw_texts(n_texts: int, seed: int) -> np.ndarray:
    """Draw as many texts as there are, with replacement, many times.

    Returns:
        How often each text is drawn, [n_resamples, n_texts].
    """
    rng = np.random.default_rng([seed, 3])
    return rng.multinomial(n_texts, np.full(n_texts, 1 / n_texts), size=N_BOOTSTRAP)


def mean_of(
    values: np.ndarray, text: np.ndarray, weights: np.ndarray
) -> tuple[float | None, float | None, float | None]:
    """Give the mean of values, and the 95 % interval of it if other texts had been drawn.

    Values of one text go together: they are not independent, so that an interval over them would be too narrow.

    Args:
        values: [n].
        text: The text of each, [n].
        weights: As `draw_texts` gives, [n_resamples, n_texts].

    Returns:
        Mean, lower and upper end; None each if there are no values.
    """
    if len(values) == 0:
        return None, None, None
    n_texts = weights.shape[1]
    sums = np.bincount(text, weights=values, minlength=n_texts)
    counts = np.bincount(text, minlength=n_texts)
    drawn = weights @ counts
    means = (weights @ sums)[drawn > 0] / drawn[drawn > 0]
    low, high = np.quantile(means, _LEVELS).tolist()
    return float(values.mean()), low, high

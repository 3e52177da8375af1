"""Whether features of one group have higher scores than those of another: Mann-Whitney U tests."""

import itertools
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from scipy.stats import mannwhitneyu

MIN_GROUP = 8
"""With fewer in each group, hardly any result has p < 0.001 (seven and seven are the fewest that can); ours, the paper gives none."""


class Comparison(TypedDict):
    """One test."""

    group_1: str
    """Name of a group."""
    group_2: str
    """Name of another."""
    n_1: int
    """Values of the first group."""
    n_2: int
    """Values of the second."""
    u: float
    """Mann-Whitney's U of the first group: pairs in which its value is the larger one, ties count one half."""
    p: float
    """Two-sided p value; exact where a group has at most 8 values and none are tied, else by the normal approximation with its correction for ties."""
    auc: float
    """U / (n_1 n_2), 0 to 1: how often a value of the first group is larger than one of the second."""
    effect: float
    """Rank-biserial correlation, 2 AUC − 1, −1 to 1; above 0 the first group has the larger values."""


def compare_groups(values: Mapping[str, np.ndarray], min_group: int = MIN_GROUP) -> list[Comparison]:
    """Test every pair of groups.

    Args:
        values: Scores by name of the group, [n] each, no NaN.
        min_group: A group with fewer values is not tested.
    """
    large = {name: own for name, own in values.items() if len(own) >= max(1, min_group)}
    found: list[Comparison] = []
    for (name_1, first), (name_2, second) in itertools.combinations(large.items(), 2):
        pairs = len(first) * len(second)
        if (
            first.min() == first.max() == second.min() == second.max()
        ):  # nothing to rank; scipy would divide by 0
            u, p = pairs / 2, 1.0
        else:
            test = mannwhitneyu(first, second, alternative="two-sided")
            u, p = float(test.statistic), float(test.pvalue)
        found.append(
            Comparison(
                group_1=name_1,
                group_2=name_2,
                n_1=len(first),
                n_2=len(second),
                u=u,
                p=p,
                auc=u / pairs,
                effect=2 * u / pairs - 1,
            )
        )
    return found

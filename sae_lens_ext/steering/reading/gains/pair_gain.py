"""What two layers' vectors gain beyond the better one, as a share of what all layers gain beyond it (arXiv 2509.06608)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sae_lens_ext.steering.reading.gains.reward_ratio import RewardRatio, ratio_fields, ratio_provenance
from sae_lens_ext.steering.reading.gains.rewards import mean_rewards

CALLER = "pair_gain"


@dataclass(frozen=True, repr=False)
class PairGain(RewardRatio):
    """g(i, j) = (r_ij − max(r_i, r_j)) / (r_all − max(r_i, r_j)). See `pair_gain`."""

    FORMULA: ClassVar[str] = "(r_ij − max(r_i, r_j)) / (r_all − max(r_i, r_j))"
    MEANING: ClassVar[str] = "0 is what the better layer alone gives, 1 what all layers give"
    MAKER: ClassVar[str] = CALLER


def pair_gain(
    reward_i: Any,
    reward_j: Any,
    reward_pair: Any,
    reward_all: Any,
    *,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> PairGain:
    """Give the share of the way from the better of two layers to all layers that training both together goes.

    g(i, j) = (r_ij − max(r_i, r_j)) / (r_all − max(r_i, r_j)). Below 0 the pair is worse than the better of the two, above 1 better than all layers.
    The better of two measured rewards is too high on average, so that g of layers that are equally good is too low where prompts are few.

    Args:
        reward_i: Mean reward with the vector of layer i alone: a number, such as an accuracy; or a measurement, as `measure_reward` gives: any
            object with `rewards` [prompts, samples], or such a tensor.
        reward_j: With that of layer j alone.
        reward_pair: With both, trained together.
        reward_all: With those of all layers, trained together.
        n_resamples: Bootstrap samples of the prompts, if measurements were given. In each the better of i and j is chosen anew.
        seed: Of these.

    Raises:
        ValueError: All layers are no better than the better of the two, so that there is nothing to have a share of; or the rewards are neither
            numbers nor measurements on the same prompts, or not finite.
    """
    given = {"r_i": reward_i, "r_j": reward_j, "r_ij": reward_pair, "r_all": reward_all}
    found = pair_gain_fields(CALLER, given, n_resamples, seed)
    if found["value"] is None:
        raise ValueError(
            f"{CALLER} was given {no_way(found)} Compare layers that all layers together surpass."
        )
    return PairGain(**found, provenance=ratio_provenance(n_resamples, seed))


def pair_gain_fields(caller: str, given: Mapping[str, Any], n_resamples: int, seed: int) -> dict[str, Any]:
    """Give the fields of a `PairGain` but its provenance; `value` is None if there is no ratio.

    Args:
        caller: Function the rewards were given to, for messages.
        given: "r_i", "r_j", "r_ij" and "r_all", as for `pair_gain`.
        n_resamples: Bootstrap samples.
        seed: Of these.
    """
    rewards = mean_rewards(caller, given, n_resamples, seed)
    r = rewards.samples
    best = np.maximum(r["r_i"], r["r_j"])
    return ratio_fields(rewards, r["r_ij"] - best, r["r_all"] - best)


def no_way(fields: Mapping[str, Any]) -> str:
    """Say why there is no ratio."""
    parts = fields["parts"]
    best = max(parts["r_i"].value, parts["r_j"].value)
    return (
        f"rewards by which all layers together, {parts['r_all'].value:.4g}, are no better than the better of the two layers, {best:.4g}, so that the gain has "
        "nothing to be a share of."
    )

"""What a vector of one model gains in another, as a share of what that one's own vector gains (arXiv 2509.06608)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from sae_lens_ext.steering.reading.gains.reward_ratio import RewardRatio, ratio_fields, ratio_provenance
from sae_lens_ext.steering.reading.gains.rewards import mean_rewards

CALLER = "transfer"


@dataclass(frozen=True, repr=False)
class Transfer(RewardRatio):
    """(r_transferred − r_base) / (r_own − r_base). See `transfer`."""

    FORMULA: ClassVar[str] = "(r_transferred − r_base) / (r_own − r_base)"
    MEANING: ClassVar[str] = "0 is the model unsteered, 1 what its own vectors give"
    MAKER: ClassVar[str] = CALLER


def transfer(base: Any, own: Any, transferred: Any, *, n_resamples: int = 2_000, seed: int = 0) -> Transfer:
    """Give the share of the gain by a model's own vectors that another model's vectors bring it.

    (r_transferred − r_base) / (r_own − r_base), all measured on the model that is steered. Below 0 the foreign vectors harm.

    Args:
        base: Mean reward of the model unsteered: a number, or a measurement as for `pair_gain`.
        own: With the vectors trained on it.
        transferred: With the vectors trained on another model.
        n_resamples: Bootstrap samples of the prompts, if measurements were given.
        seed: Of these.

    Raises:
        ValueError: The model's own vectors do not raise its reward, so that there is nothing to have a share of; or the rewards are neither numbers nor
            measurements on the same prompts, or not finite.
    """
    given = {"r_base": base, "r_own": own, "r_transferred": transferred}
    rewards = mean_rewards(CALLER, given, n_resamples, seed)
    r = rewards.samples
    found = ratio_fields(rewards, r["r_transferred"] - r["r_base"], r["r_own"] - r["r_base"])
    if found["value"] is None:
        raise ValueError(
            f"{CALLER} was given rewards by which the model's own vectors, {r['r_own'][0]:.4g}, do not raise the reward of the base, {r['r_base'][0]:.4g}, so that "
            "there is no gain to have a share of. Give own vectors that work."
        )
    return Transfer(**found, provenance=ratio_provenance(n_resamples, seed))

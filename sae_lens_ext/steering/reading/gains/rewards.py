"""Mean rewards that belong together, with bootstrap samples over their common prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.bootstrap import Estimate, estimate, resamples
from sae_lens_ext.number_checks import require_number, require_seed

_HOW = "Give numbers for all, or measurements of the same prompts in the same order for all, such as measure_reward gives."


@dataclass(frozen=True, eq=False)
class MeanRewards:
    """Mean rewards by name, and what they would be on other prompts."""

    samples: Mapping[str, NDArray[np.float64]]
    """By name, [1 + n_resamples]: the mean over all prompts, then over those of each bootstrap sample, which are the same for all names. [1] if
    numbers were given."""
    n_prompts: int | None
    """Prompts; None if numbers were given."""

    def estimates(self) -> dict[str, Estimate]:
        """Give each mean with its 95 % interval over prompts."""
        n = 1 if self.n_prompts is None else self.n_prompts
        return {name: estimate(values, n) for name, values in self.samples.items()}


def mean_rewards(caller: str, given: Mapping[str, Any], n_resamples: int, seed: int) -> MeanRewards:
    """Read rewards that a user gave.

    Args:
        caller: Function they were given to, for messages.
        given: By name: numbers; or objects with `rewards` [prompts, samples], as `measure_reward` gives, or such tensors or arrays themselves.
        n_resamples: Bootstrap samples of the prompts.
        seed: Of these.

    Raises:
        ValueError: One is neither, or not finite; there are numbers and measurements; measurements are of other prompts.
    """
    require_positive_int(caller, "n_resamples", n_resamples)
    seed = require_seed(caller, seed)
    measured = {name: _rewards(caller, name, value) for name, value in given.items()}
    rows = {name: values.mean(axis=1) for name, values in measured.items() if values is not None}
    if not rows:
        numbers = {name: require_number(caller, name, value) for name, value in given.items()}
        return MeanRewards({name: np.array([number]) for name, number in numbers.items()}, None)
    missing = next((name for name in given if name not in rows), None)
    if missing is not None:
        raise ValueError(
            f"{caller} was given {missing} as {given[missing]!r:.40} and {next(iter(rows))} as a measurement, so that no interval over prompts can be given. {_HOW}"
        )
    _require_same_prompts(caller, given, rows)
    n_prompts = len(next(iter(rows.values())))
    drawn = resamples(n_prompts, n_resamples, seed)
    return MeanRewards({name: values[drawn].mean(axis=1) for name, values in rows.items()}, n_prompts)


def _rewards(caller: str, name: str, value: Any) -> NDArray[np.float64] | None:
    """Give rewards [prompts, samples]; None of a number."""
    found = getattr(value, "rewards", value)
    if isinstance(found, torch.Tensor) and found.is_meta:
        raise ValueError(
            f"{caller} was given {name} as a tensor on the meta device, without its numbers. Give numbers [prompts, samples]."
        )
    if isinstance(found, torch.Tensor):
        found = found.detach().cpu().numpy()
    if not isinstance(found, np.ndarray) or found.ndim == 0:
        return None
    if found.ndim != 2 or found.size == 0 or found.dtype.kind not in "fiub":
        raise ValueError(
            f"{caller} was given {name} with rewards of the shape {found.shape} and type {found.dtype}. Give numbers [prompts, samples]."
        )
    rewards = found.astype(np.float64)
    if not np.isfinite(rewards).all():
        raise ValueError(
            f"{caller} was given {name} with NaN or infinity in row {int(np.argwhere(~np.isfinite(rewards))[0, 0])} of its rewards. Look at the reward."
        )
    return rewards


def _require_same_prompts(caller: str, given: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
    first = next(iter(rows))
    prompts: dict[str, Any] = {name: getattr(value, "prompts", None) for name, value in given.items()}
    for name in rows:
        if len(rows[name]) != len(rows[first]):
            raise ValueError(
                f"{caller} was given {first} measured on {len(rows[first])} prompts and {name} on {len(rows[name])}. {_HOW}"
            )
        one, other = prompts[first], prompts[name]
        if one is not None and other is not None and list(one) != list(other):
            raise ValueError(
                f"{caller} was given {first} and {name} measured on other prompts, or in another order. {_HOW}"
            )

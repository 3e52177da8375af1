"""When a training may end before its last step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_lens_ext.number_checks import require_number, whole_number


@dataclass(frozen=True)
class EarlyStop:
    """Stop by the mean reward of the last steps.

    Raises:
        ValueError: Neither a reward nor a patience is given, or a number is out of range.
    """

    reward: float | None = None
    """Stop as soon as the mean is at least this."""
    patience: int | None = None
    """Stop when the mean has set no new record for so many steps."""
    window: int = 10
    """Steps of the mean; before so many have passed, nothing is stopped."""

    def __post_init__(self) -> None:
        if self.reward is None and self.patience is None:
            raise ValueError(
                "EarlyStop was given neither a reward nor a patience, so that it would never stop. Give one of them."
            )
        if self.reward is not None:
            object.__setattr__(self, "reward", require_number("EarlyStop", "reward", self.reward))
        for name in ("patience", "window"):
            value = getattr(self, name)
            number = whole_number(value)
            if (number is None or number < 1) and not (name == "patience" and value is None):
                raise ValueError(
                    f"EarlyStop was given {name} = {value!r}. Give a whole number of at least 1."
                )
            object.__setattr__(self, name, number)

    def reached(self, rewards: Sequence[float]) -> bool:
        """Tell whether to stop after steps with these mean rewards."""
        if len(rewards) < self.window:
            return False
        means = np.convolve(rewards, np.full(self.window, 1 / self.window), mode="valid")
        if self.reward is not None and means[-1] >= self.reward:
            return True
        return self.patience is not None and len(means) - 1 - int(means.argmax()) >= self.patience

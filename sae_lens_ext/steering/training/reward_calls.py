"""Calling a reward, which is anybody's code, and saying which sample it failed on."""

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sae_lens_ext.steering.vectors import SteeringVectors

Reward = Callable[[str, str], float]
"""Says how good a completion is, of (prompt, completion)."""


class RewardError(ValueError):
    """A reward raised, or gave something that is no finite number.

    What had been trained so far is in `vectors`, and in the folder if there is one.
    """

    def __init__(self, message: str, prompt: str, completion: str) -> None:
        super().__init__(message)
        self.prompt = prompt
        """The prompt it was given."""
        self.completion = completion
        """The completion it was given."""
        self.completions: Sequence[Sequence[str]] = ()
        """All completions that were sampled, [prompts][samples]; those of this step, in a training."""
        self.vectors: SteeringVectors | None = None
        """The vectors before the step in which it failed; None outside a training."""


def require_reward(caller: str, reward: Any) -> None:
    """Raise ValueError unless a reward can be called."""
    if not callable(reward):
        raise ValueError(
            f"{caller} was given reward = {reward!r:.100}. Give a function of (prompt, completion) that gives a number, such as "
            "LastNumberEquals(answers)."
        )


def call_reward(
    reward: Reward, prompts: Sequence[str], completions: Sequence[Sequence[str]]
) -> NDArray[np.float64]:
    """Give the rewards of completions.

    Args:
        reward: What is called.
        prompts: The prompts.
        completions: Of each as many.

    Returns:
        [prompts, samples].

    Raises:
        RewardError: The reward raised, or gave something that is no finite number; it says for which sample.
    """
    rewards = np.zeros((len(prompts), len(completions[0])))
    try:
        for i, prompt in enumerate(prompts):
            for j, completion in enumerate(completions[i]):
                rewards[i, j] = _one(reward, prompt, completion, j)
    except RewardError as error:
        error.completions = completions
        raise
    return rewards


def _one(reward: Reward, prompt: str, completion: str, sample: int) -> float:
    where = f"sample {sample} of the prompt {prompt!r:.200}, the completion {completion!r:.200}"
    try:
        given: Any = reward(prompt, completion)
    except Exception as error:
        raise RewardError(
            f"The reward raised {type(error).__name__} for {where}: {error}. Nothing was learnt from this step; mend the reward, and go on from what was saved.",
            prompt,
            completion,
        ) from error
    number = _as_number(given)
    if number is None or not np.isfinite(number):
        raise RewardError(
            f"The reward gave {_described(given)} for {where}. Give one finite number, such as 1.0 or 0.0.",
            prompt,
            completion,
        )
    return number


def _as_number(given: Any) -> float | None:
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().numpy() if given.ndim == 0 and not given.is_complex() else None
    elif isinstance(given, np.ndarray) and (given.ndim or given.dtype.kind not in "biuf"):
        return None
    try:
        return float(given) if isinstance(given, (Real, np.bool_, np.ndarray)) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def _described(given: Any) -> str:
    if isinstance(given, (torch.Tensor, np.ndarray)) and given.ndim:
        return f"{type(given).__name__} of the shape {list(given.shape)}"
    return f"{given!r:.100} ({type(given).__name__})"


def reward_name(reward: Any) -> str:
    """Name a reward as it is noted beside results: by its representation if it has one of its own, else by the function's or class's name.

    What a function closes over does not show in its name, and neither do an object's settings without a `__repr__`.
    """
    if isinstance(reward, partial):
        return f"partial({reward_name(reward.func)}, {reward.args!r}, {reward.keywords!r})"
    if not hasattr(reward, "__qualname__") and type(reward).__repr__ is not object.__repr__:
        return repr(reward)
    named = reward if hasattr(reward, "__qualname__") else type(reward)
    return f"{getattr(reward, '__module__', type(reward).__module__)}.{named.__qualname__}"

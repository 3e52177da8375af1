"""REINFORCE leave-one-out advantages (RLOO), and the controls that break the link between reward and completion."""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

Control = Literal["random", "shuffled"]
CONTROLS: tuple[Control, ...] = get_args(Control)


def rloo_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Give each sample's reward less the mean reward of the prompt's other samples (arXiv 2509.06608: A_j = r_j − mean_{k≠j} r_k).

    Args:
        rewards: [prompts, group_size], of at least two samples a prompt.

    Returns:
        Advantages [prompts, group_size]; those of one prompt sum to 0.
    """
    group_size = rewards.shape[1]
    advantages = (rewards - rewards.mean(dim=1, keepdim=True)) * (group_size / (group_size - 1))
    alike = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return advantages.masked_fill(alike, 0.0)  # exactly, where the mean rounds


def controlled_rewards(
    rewards: NDArray[np.float64], control: Control | None, seed: tuple[int, ...]
) -> NDArray[np.float64]:
    """Give the rewards to train on.

    Args:
        rewards: What the reward says, [prompts, group_size].
        control: None for these; "random" for 0 or 1 with equal chances in place of them; "shuffled" for the rewards of a prompt's samples
            in random order, so that their sizes stay and what they were given for is lost.
        seed: Of the control.

    Returns:
        [prompts, group_size].
    """
    if control is None:
        return rewards
    generator = np.random.default_rng(seed)
    if control == "random":
        return generator.integers(2, size=rewards.shape).astype(np.float64)
    return generator.permuted(rewards, axis=1)

"""Adam's state of divided parameters: joined to that of the undivided SAE, and cut from it."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from sae_lens_ext.ranks import Ranks
from sae_lens_ext.training.tensor_parallel.shares import DIVIDED_AXIS, joined_tensor, share_of_tensor


def joined_optimizer_state(
    share: Mapping[str, Any], names: Iterable[str], ranks: Ranks
) -> dict[str, Any] | None:
    """Put the ranks' optimizer states together on the first rank, moment by moment, on its CPU.

    Args:
        share: `state_dict()` of this rank's optimizer.
        names: The parameters' names, in the optimizer's order.
        ranks: Who they are. All must ask.

    Returns:
        The state of an optimizer of the undivided SAE on the first rank; None on the others.

    Raises:
        RankError: A rank does not answer.
    """
    state = {
        place: {
            key: _joined(name, key, value, ranks) if torch.is_tensor(value) else value
            for key, value in share["state"][place].items()
        }
        for place, name in enumerate(names)
        if place in share["state"]  # nothing before the first step
    }
    return {**share, "state": state} if ranks.is_first else None


def share_of_optimizer_state(
    whole: Mapping[str, Any], parameters: Iterable[tuple[str, torch.Tensor]], own: slice
) -> dict[str, Any]:
    """Cut the state of an undivided SAE's optimizer to a rank's share.

    Args:
        whole: Its `state_dict()`; the tensors may be mapped from a file, of which only the share is then read.
        parameters: This rank's, by name, in the optimizer's order: a moment is laid out in memory as its parameter is.
        own: The latents that are this rank's.
    """
    state = {
        place: {
            key: _cut(name, value, parameter, own) if torch.is_tensor(value) else value
            for key, value in whole["state"][place].items()
        }
        for place, (name, parameter) in enumerate(parameters)
        if place in whole["state"]
    }
    return {**whole, "state": state}


def _axis(name: str, value: torch.Tensor) -> int | None:
    """Along which axis a number of Adam's lies divided; its count of steps is a scalar."""
    return DIVIDED_AXIS.get(name) if value.ndim else None


def _joined(name: str, key: str, value: torch.Tensor, ranks: Ranks) -> torch.Tensor | None:
    return joined_tensor(value, _axis(name, value), ranks, f"joining the ranks' shares of {name}'s {key}")


def _cut(name: str, value: torch.Tensor, parameter: torch.Tensor, own: slice) -> torch.Tensor:
    share = share_of_tensor(value, _axis(name, value), own)
    return torch.empty_like(parameter, dtype=share.dtype, device="cpu").copy_(share) if share.ndim else share

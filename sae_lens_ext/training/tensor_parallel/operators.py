"""The two operators of tensor parallelism: sum over the ranks one way, the identity the other (Megatron-LM, arXiv 1909.08053, section 3).

Each rank computes one term of a sum, and from the sum all compute the same loss. So the gradient of the sum is the
gradient of every term, and what all ranks read gets its gradient in parts.
"""

from typing import Any

import torch

from sae_lens_ext.ranks import Ranks


def sum_over_ranks(term: torch.Tensor, ranks: Ranks, what: str) -> torch.Tensor:
    """Add up the ranks' terms; backward, each rank's term gets the gradient of the sum.

    Args:
        term: Of the same shape on every rank.
        ranks: Who they are. All must go on with the same computation.
        what: For an error.

    Returns:
        The sum, the same to the bit on every rank.

    Raises:
        RankError: A rank does not answer.
    """
    total: torch.Tensor = _SumOverRanks.apply(term, ranks, what)
    return total


def copy_to_ranks(replicated: torch.Tensor, ranks: Ranks, what: str) -> torch.Tensor:
    """Give back what every rank has; backward, its gradient is the sum of those that the ranks' uses of it have.

    Args:
        replicated: The same on every rank.
        ranks: Who they are. All must use it, or none.
        what: For an error.

    Raises:
        RankError: In the backward pass: a rank does not answer.
    """
    copy: torch.Tensor = _CopyToRanks.apply(replicated, ranks, what)
    return copy


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, term: torch.Tensor, ranks: Ranks, what: str) -> torch.Tensor:  # type: ignore[override]
        return _summed(term, ranks, what)

    @staticmethod
    def backward(_: Any, d_sum: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        return d_sum, None, None


class _CopyToRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replicated: torch.Tensor, ranks: Ranks, what: str) -> torch.Tensor:  # type: ignore[override]
        ctx.ranks, ctx.what = ranks, what
        return replicated.view_as(replicated)

    @staticmethod
    def backward(ctx: Any, d_copy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        return _summed(d_copy, ctx.ranks, f"{ctx.what} (its gradient)"), None, None


def _summed(term: torch.Tensor, ranks: Ranks, what: str) -> torch.Tensor:
    return ranks.tell.reduce_(term.detach().clone(memory_format=torch.contiguous_format), "sum", what)

"""Dividing independent pieces of work among the ranks."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sae_lens_ext.ranks.job import Ranks

T = TypeVar("T")
R = TypeVar("R")


def share_of(pieces: Sequence[T], ranks: Ranks) -> list[T]:
    """Give the pieces that are this rank's: every `size`-th, so that neighbours are as far apart as can be."""
    return list(pieces[ranks.rank :: ranks.size])


def divided(pieces: Sequence[T], compute: Callable[[T], R], ranks: Ranks, what: str) -> list[R]:
    """Compute every piece on one of the ranks, and give the results of all, in their order, to all ranks.

    The ranks come together after every piece, so that none waits for another longer than a piece takes.

    Args:
        pieces: The same on every rank.
        compute: Works on one piece; its result must be picklable, with tensors on the CPU.
        ranks: Who divides the work.
        what: What is done, for an error.
    """
    results: list[R] = []
    for start in range(0, len(pieces), ranks.size):
        own = [compute(piece) for piece in share_of(pieces[start : start + ranks.size], ranks)]
        results += [result for part in ranks.tell.gather_objects(own, what) for result in part]
    return results

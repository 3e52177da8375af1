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

    Args:
        pieces: The same on every rank.
        compute: Works on one piece; its result must be picklable, with tensors on the CPU.
        ranks: Who divides the work.
        what: What is done, for an error.
    """
    own = [compute(piece) for piece in share_of(pieces, ranks)]
    found = ranks.tell.gather_objects(own, what)
    return [found[i % ranks.size][i // ranks.size] for i in range(len(pieces))]

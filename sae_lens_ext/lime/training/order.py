"""In which order a training reads its sequences: all of it follows from the seed and the step."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ORDER = 0
"""What the random numbers are for; other purposes have other numbers."""


class BatchOrder:
    """Batches of sequences, each of one group, in an order of its own for every epoch.

    Args:
        sizes: Sequences of each group.
        batch_size: Sequences of a batch; the last of a group may have fewer.
        seed: Of the order.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int) -> None:
        self._sizes, self._batch_size, self._seed = tuple(sizes), batch_size, seed
        self.per_epoch = sum(-(-size // batch_size) for size in sizes)
        """Batches that go once through everything."""
        self._epoch = lru_cache(maxsize=1)(self._shuffled)

    def batch(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Give the group and the sequences in it of a step, counted from 0."""
        return self._epoch(step // self.per_epoch)[step % self.per_epoch]

    def _shuffled(self, epoch: int) -> list[tuple[int, NDArray[np.int64]]]:
        generator = np.random.default_rng((self._seed, _ORDER, epoch))
        batches = [
            (group, order[start : start + self._batch_size])
            for group, order in enumerate(generator.permutation(size) for size in self._sizes)
            for start in range(0, len(order), self._batch_size)
        ]
        return [batches[i] for i in generator.permutation(len(batches))]

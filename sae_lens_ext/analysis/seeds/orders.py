"""Several orders of one stream of activations, without running the model more than once."""

import zlib
from collections.abc import Iterator, Mapping

import torch


class SeededOrders:
    """Gives every SAE the activations of a stream, each in an order of its own.

    A number of batches is gathered; every SAE's batches are then cut from that pool by a permutation of its own. So all SAEs
    see the same rows, and where in the stream a row comes differs by no more than the pool.

    Args:
        stream: Batches [B, d_in] by hook name, without end.
        hook_names: The hook of each SAE, by the SAE's name.
        seeds: What each SAE's order is drawn from, by the SAE's name; equal seeds give equal orders.
        pool_batches: Batches in a pool.
        n_batches: Batches that are asked for in all: the last pool holds no more than what is left of them.
        first_batch: Batches that were asked for before, by a run that this one takes up.
    """

    def __init__(
        self,
        stream: Iterator[dict[str, torch.Tensor]],
        *,
        hook_names: Mapping[str, str],
        seeds: Mapping[str, int],
        pool_batches: int,
        n_batches: int,
        first_batch: int = 0,
    ) -> None:
        self._stream, self._hook_names, self._seeds = stream, dict(hook_names), dict(seeds)
        self._pool_batches, self._n_batches, self._batch = pool_batches, n_batches, first_batch
        self._ready: Iterator[dict[str, torch.Tensor]] = iter(())

    def __iter__(self) -> "SeededOrders":
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        """Give the next batch [B, d_in] of every SAE, by the SAE's name."""
        batch = next(self._ready, None)
        if batch is None:
            self._ready = self._next_pool()
            batch = next(self._ready)
        self._batch += 1
        return batch

    def _next_pool(self) -> Iterator[dict[str, torch.Tensor]]:
        n = max(1, min(self._pool_batches, self._n_batches - self._batch))
        gathered = [next(self._stream) for _ in range(n)]
        pool = {hook: torch.cat([batch[hook] for batch in gathered]) for hook in gathered[0]}
        n_rows = len(next(iter(pool.values())))
        orders = {
            name: torch.randperm(n_rows, generator=self._generator(seed)).chunk(n)
            for name, seed in self._seeds.items()
        }
        del gathered
        for i in range(n):
            yield {name: pool[self._hook_names[name]][order[i]] for name, order in orders.items()}

    def _generator(self, seed: int) -> torch.Generator:
        """Draw each pool's order by itself, so that it does not matter what was drawn before it."""
        return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{self._batch}".encode()))

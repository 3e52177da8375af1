"""SAELens' mixed activations as rows with numbers: the same batches from the same seed, replayed at will and divided over ranks.

Which rows make up which batch is decided by numbers alone, with SAELens' own mixing buffer; the activations are kept apart. So a run that is
taken up again finds its place without running the language model on what is past, and the ranks of a job agree on every batch
although each runs the model on its share of the text.
"""

import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.training.mixing_buffer import mixing_buffer

from sae_lens_ext.ranks import Ranks
from sae_lens_ext.training.held_rows import HeldRows
from sae_lens_ext.training.row_exchange import exchange_rows

Rows = dict[str, torch.Tensor]


class ActivationStream(Iterator[Rows]):
    """Gives the batches that SAELens' store would give if torch's generator stood at `seed` when it began.

    Args:
        store: SAELens' store, of one hook or of several, from which nothing has been read. It is read by this stream alone.
        seed: What the mixing draws from. Nothing else draws from it, and it draws from nothing else. While a batch is mixed torch's generator is
            set aside; a stream that is read in another thread, as prefetching does, must not meet a step that draws at the same time.
        ranks: Divide the text: the model runs on every `size`-th of the store's batches of prompts, and `next` gives this rank's part of the batch,
            rows rank·B/size to (rank+1)·B/size. None: this process reads everything and gives whole batches.

    Raises:
        ValueError: The batch cannot be divided evenly, or a store of several hooks is to be divided; or, later, the data set has fewer contexts
            than a batch of prompts.
    """

    def __init__(self, store: ActivationsStore, seed: int, ranks: Ranks | None = None) -> None:
        self._store, self._read = store, _reader(store)
        self._ranks = None if ranks is None or ranks.size == 1 else ranks
        if ranks is not None:
            require_even(store.train_batch_size_tokens, ranks)
        if self._ranks is not None and store._hook_names is not None:
            raise ValueError(
                "A store of several hooks is not divided over ranks. Give one of a single hook, or ranks = None."
            )
        self._randomness = torch.Generator().manual_seed(seed).get_state()
        empty = torch.zeros(0, store.d_in, device=store.device)  # of the precision that SAELens' store gives
        self._held = HeldRows(None if self._ranks is None else {store.hook_name: empty})
        self._unread: list[_Source] = []
        self._batches = mixing_buffer(
            buffer_size=store.n_batches_in_buffer * store.training_context_size,
            batch_size=store.train_batch_size_tokens,
            activations_loader=self._numbered(),
            mix_fraction=store.activations_mixing_fraction,
        )

    def __next__(self) -> Rows:
        """Give the next batch by hook name, [B, d_in], or this rank's part of it, [B/size, d_in]."""
        return self._rows(whole=False)

    def whole_batches(self) -> Iterator[Rows]:
        """Give the next batches whole on every rank, [B, d_in], as long as they are asked for."""
        while True:
            yield self._rows(whole=True)

    def skip(self, n_batches: int) -> None:
        """Pass over batches; of the text they come from, the model will read only what later batches need as well."""
        for _ in range(n_batches):
            numbers, sources = self._next_numbers()
            for source in self._unread:
                source.left[numbers[sources == source.place] - source.first] = False
            self._unread = [source for source in self._unread if source.left.any()]

    def _rows(self, whole: bool) -> Rows:
        numbers, sources = self._next_numbers()
        for source in self._unread:
            self._held.add(source.numbers(), source.rows(self._read(source.tokens), self._store.device))
        self._unread = []
        if self._ranks is None:
            return self._held.take(numbers)
        owners = sources % self._ranks.size
        return exchange_rows(self._held.take(numbers[owners == self._ranks.rank]), owners, self._ranks, whole)

    def _next_numbers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the next batch's row numbers [B], and which batch of prompts each comes from [B]."""
        with self._own_randomness():
            batch = next(self._batches)
        return batch[:, 0], batch[:, 1]

    def _numbered(self) -> Generator[torch.Tensor, None, None]:
        """Give the rows of each batch of prompts as numbers [n, 2]: the row's, and the batch of prompts'."""
        n_rows, exclude = 0, self._store.exclude_special_tokens
        for place, tokens in enumerate(_prompts(self._store)):
            seen = tokens[:, slice(*self._store.seqpos_slice)].flatten()
            kept = (
                torch.ones_like(seen, dtype=torch.bool)
                if exclude is None
                else ~torch.isin(seen, exclude.to(seen.device))
            ).cpu()
            numbers = torch.arange(n_rows, n_rows + int(kept.sum()))
            if self._ranks is None or place % self._ranks.size == self._ranks.rank:
                left = torch.ones(len(numbers), dtype=torch.bool)
                self._unread.append(_Source(place, n_rows, tokens, kept, left))
            n_rows += len(numbers)
            yield torch.stack([numbers, torch.full_like(numbers, place)], dim=1)

    @contextmanager
    def _own_randomness(self) -> Generator[None, None, None]:
        outside = torch.get_rng_state()
        torch.set_rng_state(self._randomness)
        try:
            yield
        finally:
            self._randomness = torch.get_rng_state()
            torch.set_rng_state(outside)


@dataclass
class _Source:
    """A batch of prompts that the model has not read yet."""

    place: int
    """Which batch of prompts it is, from 0."""
    first: int
    """The number of its first row."""
    tokens: torch.Tensor
    """[prompts, context]."""
    kept: torch.Tensor
    """[prompts · training context], bool: which of its positions are rows; special tokens may be left out."""
    left: torch.Tensor
    """[rows], bool: which of its rows are still wanted."""

    def numbers(self) -> torch.Tensor:
        """Give the numbers of the rows that are wanted."""
        return self.first + self.left.nonzero().flatten()

    def rows(self, activations: Rows, device: torch.device) -> Rows:
        """Cut the rows that are wanted from the activations, [prompts, training context, d_in] each."""
        wanted = self.kept.nonzero().flatten()[self.left]
        return {hook: acts.to(device).flatten(0, 1)[wanted.to(device)] for hook, acts in activations.items()}


def require_even(batch_size: int, ranks: Ranks) -> None:
    """Raise ValueError unless every rank can have as many rows of a batch as every other."""
    if batch_size % ranks.size:
        raise ValueError(
            f"A batch of train_batch_size_tokens = {batch_size} cannot be divided evenly over {ranks.size} ranks. Give a "
            f"multiple of {ranks.size}."
        )


def _reader(store: ActivationsStore) -> Callable[[torch.Tensor], Rows]:
    if store._hook_names is not None:
        return store.get_multi_hook_activations
    return lambda tokens: {store.hook_name: store.get_activations(tokens)}


def _prompts(store: ActivationsStore) -> Generator[torch.Tensor, None, None]:
    """Give batches of prompts without end, from the beginning again as SAELens' store does: what does not fill the last one is dropped."""
    while True:
        try:
            tokens = store.get_batch_tokens(raise_at_epoch_end=True)
        except StopIteration:
            warnings.warn(
                "All samples in the training dataset have been exhausted, beginning new epoch.", stacklevel=2
            )
            tokens = _from_the_beginning(store)
        yield tokens


def _from_the_beginning(store: ActivationsStore) -> torch.Tensor:
    try:
        return store.get_batch_tokens()
    except StopIteration as error:
        raise ValueError(
            f"The data set holds no context of {store.context_size} tokens. Give more text, or a smaller context_size."
        ) from error

"""Interrupting a run between two steps, where all SAEs have seen the same batches."""

import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from sae_lens.training._interruption import InterruptedException

from sae_lens_ext.ranks import Ranks

Batch = TypeVar("Batch")


class InterruptBetweenSteps:
    """Lets SIGINT and SIGTERM wait until every SAE has taken the step, and until what is being saved is saved.

    SAELens raises wherever the signal comes. With many SAEs that is most often in the middle of a step, and the checkpoint it then
    saves holds some SAEs that have seen one batch more than the others.

    The ranks of a job agree before every step: a signal to one of them stops all, after the same step. A rank that has ended or hangs
    is found out there, if not before.

    Args:
        ranks: The ranks that train together; None for this process alone.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self._ranks = None if ranks is None or ranks.size == 1 else ranks
        self._signal: int | None = None
        self._may_raise = self._ranks is None

    @contextmanager
    def watching(self) -> Generator[None, None, None]:
        """Take the two signals over while the block lasts; one that came after the last step is sent on at its end."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._signal is not None:
            signal.raise_signal(self._signal)

    def between_steps(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        """Give the batches of a stream; asking for the next one raises InterruptedException if a signal has come or comes."""
        while True:
            self._may_raise = self._ranks is None
            if self._came():
                self._raise()
            batch = next(stream)
            self._may_raise = False
            yield batch

    def _came(self) -> bool:
        if self._ranks is None:
            return self._signal is not None
        came = torch.tensor([float(self._signal is not None)])
        return bool(self._ranks.tell.reduce_(came, "max", "agreeing on the next step"))

    def _note(self, number: int, _frame: Any) -> None:
        self._signal = number
        if self._may_raise:
            self._raise()

    def _raise(self) -> None:
        self._may_raise = False  # a checkpoint is saved next
        raise InterruptedException

"""Interrupting a run between two steps, where all SAEs have seen the same batches."""

import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sae_lens.training._interruption import InterruptedException

Batch = TypeVar("Batch")


class InterruptBetweenSteps:
    """Lets SIGINT and SIGTERM wait until every SAE has taken the step, and until what is being saved is saved.

    SAELens raises wherever the signal comes. With many SAEs that is most often in the middle of a step, and the checkpoint it then
    saves holds some SAEs that have seen one batch more than the others.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._may_raise = True

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
            self._may_raise = True
            if self._signal is not None:
                self._raise()
            batch = next(stream)
            self._may_raise = False
            yield batch

    def _note(self, number: int, _frame: Any) -> None:
        self._signal = number
        if self._may_raise:
            self._raise()

    def _raise(self) -> None:
        self._may_raise = False  # a checkpoint is saved next
        raise InterruptedException

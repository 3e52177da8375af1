"""What the ranks of a job tell one another, and a sentence where one of them does not answer."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
Reduction = Literal["sum", "max", "min"]
_OPERATIONS: dict[Reduction, Any] = {
    "sum": dist.ReduceOp.SUM,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
}
TIMEOUT_VARIABLE = "SAE_LENS_EXT_RANK_TIMEOUT"
"""Environment variable: the seconds that a rank waits for the others."""
_UNANSWERED = re.compile("time.?out|timed out|connect|peer|closed|abort", re.IGNORECASE)

Method = TypeVar("Method", bound=Callable[..., Any])


def _uncompiled(method: Method) -> Method:
    """Leave a method out of what `torch.compile` compiles."""
    return torch.compiler.disable(method)  # pyright: ignore[reportReturnType]


class RankError(RuntimeError):
    """Another rank of the job did not answer, or the ranks no longer agree."""


class Collectives:
    """Exchanges among the ranks of torch's default process group; with one rank, nothing happens.

    Every rank must ask for the same exchanges in the same order. `what` says in an error what they were for.

    Args:
        rank: This process's place, from 0.
        size: How many there are.
        timeout: Seconds that a rank waits for the others, for errors; None if they are not known.
    """

    def __init__(self, rank: int, size: int, timeout: float | None) -> None:
        self.rank, self.size = rank, size
        self._within = "in time" if timeout is None else f"within {timeout:g} seconds"
        self.sent_bytes = 0
        """Bytes of this rank's tensors that were given to exchanges so far; how many of them go over the wire is the backend's."""

    @_uncompiled
    def reduce_(self, tensor: torch.Tensor, how: Reduction, what: str) -> torch.Tensor:
        """Replace a tensor by its sum, maximum or minimum over the ranks, the same to the bit on all of them.

        Args:
            tensor: Of the same shape on every rank; contiguous.
            how: "sum", "max" or "min".
            what: For an error.

        Returns:
            The tensor itself.
        """
        if self.size > 1:
            self._count(tensor)
            with self._answered(what):
                dist.all_reduce(tensor, op=_OPERATIONS[how])
        return tensor

    @_uncompiled
    def gather(self, tensor: torch.Tensor, what: str) -> torch.Tensor:
        """Give the tensors of all ranks, [size, ...], in the order of the ranks.

        Args:
            tensor: Of the same shape on every rank.
            what: For an error.
        """
        if self.size == 1:
            return tensor.unsqueeze(0)
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        self._count(tensor)
        with self._answered(what):
            dist.all_gather(parts, tensor)
        return torch.stack(parts)

    @_uncompiled
    def exchange(
        self, rows: torch.Tensor, sent: Sequence[int], received: Sequence[int], what: str
    ) -> torch.Tensor:
        """Send some rows to each rank and get some from each.

        Args:
            rows: [n, ...], first those for rank 0, then those for rank 1, and so on.
            sent: How many rows go to each rank.
            received: How many rows come from each rank.
            what: For an error.

        Returns:
            [m, ...], first those from rank 0, and so on.
        """
        if self.size == 1:
            return rows
        rows = rows.contiguous()
        result = rows.new_empty((sum(received), *rows.shape[1:]))
        self._count(rows)
        with self._answered(what):
            dist.all_to_all_single(result, rows, list(received), list(sent))
        return result

    def gather_objects(self, content: T, what: str) -> list[T]:
        """Give the objects of all ranks, in the order of the ranks."""
        if self.size == 1:
            return [content]
        found: list[Any] = [None] * self.size
        with self._answered(what):
            dist.all_gather_object(found, content)
        return found

    def from_first(self, content: T, what: str) -> T:
        """Give what the first rank has, to all."""
        if self.size == 1:
            return content
        box: list[Any] = [content]
        with self._answered(what):
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self, what: str) -> None:
        """Go on when all ranks have come here."""
        self.reduce_(torch.zeros(1), "sum", what)  # on the CPU, so that no GPU has to be named

    def _count(self, tensor: torch.Tensor) -> None:
        self.sent_bytes += tensor.numel() * tensor.element_size()

    @contextmanager
    def _answered(self, what: str) -> Generator[None, None, None]:
        try:
            yield
        except RuntimeError as error:  # torch's DistBackendError among them
            if not isinstance(error, dist.DistError) and _UNANSWERED.search(str(error)) is None:
                raise  # a fault of this rank's own, such as memory that is not enough
            raise RankError(
                f"Rank {self.rank} of {self.size} got no answer from another rank while {what}: that one has ended, or did not come "
                f"here {self._within} ({TIMEOUT_VARIABLE}). Look for what it said before; all ranks must call the same functions. A training goes on "
                f"from its last checkpoint. ({_first_line(error)})"
            ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]

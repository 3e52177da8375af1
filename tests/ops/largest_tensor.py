"""How much memory a computation asks for at a time: the size of the largest tensor it creates."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """While active, records the largest tensor that an operation creates, backward passes included.

    What counts is the number of elements held: a view or an operation in place creates nothing, an expanded
    tensor holds no more than what it repeats, and of a sparse tensor only the values stored count.

    Example:
        >>> with LargestTensor() as largest:
        ...     total = (torch.ones(2, 3) @ torch.ones(3, 5)).sum()
        >>> largest.numel, largest.shape
        (15, (3, 5))
    """

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0
        self.shape: tuple[int, ...] = ()
        self.operation = ""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if _is_dense(leaf)}
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor) or (_is_dense(leaf) and _storage(leaf) in given):
                continue
            numel = _held(leaf)
            if numel > self.numel:
                self.numel, self.shape, self.operation = numel, tuple(leaf.shape), str(func)
        return result

    def __repr__(self) -> str:
        return f"{self.numel} elements, shape {self.shape}, by {self.operation}"


def _is_dense(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _held(tensor: torch.Tensor) -> int:
    if tensor.layout == torch.strided:
        return tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor._values().numel()

"""Checks that the public operations make of their arguments: types and shapes, and indices where looking costs nothing.

They read no numbers on a GPU, which would wait for it. Messages give the shape asked for in the letters of the documentation.
"""

from collections.abc import Mapping
from typing import Any

import torch

from sae_lens_ext.number_checks import whole_number

_OPTIONAL = " or None"


class Sizes(dict[str, int]):
    """The size of each letter of the shapes, and whose it is."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[str, str] = {}
        """By letter, the argument that has the size."""

    def fit(self, caller: str, name: str, tensor: torch.Tensor, shape: str) -> None:
        """Raise ValueError unless a tensor has the shape; take on the sizes of letters that are new."""
        letters, own = shape.split(), tuple(tensor.shape)
        wanted = f"Give [{shape.replace(' ', ', ')}]"
        if letters[0] == "...":
            letters = letters[1:]
            own = own[max(0, len(own) - len(letters)) :]
        if len(own) != len(letters):
            raise ValueError(f"{caller} was given {name} of the shape {tuple(tensor.shape)}. {wanted}.")
        for letter, size in zip(letters, own, strict=True):
            if self.setdefault(letter, size) != size:
                raise ValueError(
                    f"{caller} was given {name} of the shape {tuple(tensor.shape)}, but {letter} = {self[letter]} in {self.owners[letter]}. "
                    f"{wanted} with the same {letter}."
                )
            self.owners.setdefault(letter, name)


def require_tensors(caller: str, **given: tuple[Any, str]) -> Sizes:
    """Raise ValueError unless arguments are tensors of floating-point numbers, on one device, whose shapes fit each other.

    Args:
        caller: The operation, for messages.
        given: By name, the argument and its shape, a letter for each dimension ("B d"), "..." first for any before them and "or None"
            last if it may be left out. The same letter is the same size.

    Returns:
        The size of each letter.
    """
    sizes = Sizes()
    first: tuple[str, torch.device] | None = None
    for name, (value, shape) in given.items():
        if value is None and shape.endswith(_OPTIONAL):
            continue
        shape = shape.removesuffix(_OPTIONAL)
        tensor = _floating(caller, name, value, shape)
        first = first or (name, tensor.device)
        if tensor.device != first[1]:
            raise ValueError(
                f"{caller} was given {name} on {tensor.device} and {first[0]} on {first[1]}. Give tensors of one device."
            )
        sizes.fit(caller, name, tensor, shape)
    return sizes


def require_indices(caller: str, name: str, value: Any, shape: str, sizes: Sizes, n: int, what: str) -> None:
    """Raise ValueError unless an argument is a tensor of whole numbers in 0..n−1, of a shape that fits.

    Args:
        caller: The operation, for messages.
        name: The argument's name.
        value: The argument.
        shape: As for `require_tensors`.
        sizes: What `require_tensors` gave; letters that are not there yet are added.
        n: How many there are to choose from. Whether the numbers are below it is looked at on a CPU alone.
        what: What they are chosen from, for the message.
    """
    if not isinstance(value, torch.Tensor) or value.dtype not in (torch.int64, torch.int32):
        given = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(
            f"{caller} was given {name} of type {given}. Give a tensor of int64, [{shape.replace(' ', ', ')}]."
        )
    if value.is_meta:
        raise ValueError(
            f"{caller} was given {name} on the meta device, without its numbers. Give a tensor that holds some."
        )
    sizes.fit(caller, name, value, shape)
    if value.device.type == "cpu" and value.numel():
        low, high = (int(bound) for bound in value.aminmax())
        if low < 0 or high >= n:
            raise ValueError(
                f"{caller} was given {name} from {low} to {high}, but there are {n} {what}. Give indices from 0, each below the number of them."
            )


def require_count(caller: str, name: str, value: Any, maximum: int, what: str) -> int:
    """Give a whole number in 1..maximum as an int; raise ValueError if it is none.

    Args:
        caller: The operation, for messages.
        name: The argument's name.
        value: The argument.
        maximum: The largest that makes sense.
        what: What there are that many of, for the message.
    """
    number = whole_number(value)
    if number is None or not 1 <= number <= maximum:
        raise ValueError(
            f"{caller} was given {name} = {value!r}. Give a whole number from 1 to {maximum}, {what}."
        )
    return number


def require_budgets(caller: str, budgets: Any, largest: int) -> tuple[int, ...]:
    """Give increasing whole numbers in 1..largest as ints; raise ValueError if they are none.

    Args:
        caller: The operation, for messages.
        budgets: The argument of this name.
        largest: K.
    """
    remedy = (
        f"Give increasing whole numbers from 1 to {largest}, the number of values, such as (1, {largest})."
    )
    try:
        numbers = [whole_number(budget) for budget in budgets]
    except TypeError:
        raise ValueError(f"{caller} was given budgets = {budgets!r}. {remedy}") from None
    found = [number for number in numbers if number is not None and 1 <= number <= largest]
    if not found or len(found) < len(numbers) or found != sorted(set(found)):
        raise ValueError(f"{caller} was given budgets = {budgets!r}. {remedy}")
    return tuple(found)


def require_one_precision(caller: str, product: Mapping[str, torch.Tensor | None]) -> None:
    """Raise ValueError unless the factors of a matrix product have one precision, or autocast gives them one.

    Args:
        caller: The operation, for messages.
        product: By name, the tensors on its left side, and last the one on its right.
    """
    tensors = {name: tensor for name, tensor in product.items() if tensor is not None}
    right_name, right = list(tensors.items())[-1]
    if torch.is_autocast_enabled(right.device.type):
        return
    left = right.dtype
    for i, (name, tensor) in enumerate(tensors.items()):
        left = (
            tensor.dtype
            if i == 0
            else left
            if name == right_name
            else torch.promote_types(left, tensor.dtype)
        )
    if left != right.dtype:
        types = ", ".join(f"{name} in {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(
            f"{caller} was given {types}. Give all of them in one precision, such as {right.dtype}."
        )


def _floating(caller: str, name: str, value: Any, shape: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"{caller} was given {name} of type {type(value).__name__}. Give a tensor [{shape.replace(' ', ', ')}]."
        )
    if not value.is_floating_point():
        raise ValueError(
            f"{caller} was given {name} of type {value.dtype}. Give floating-point numbers, such as {name}.float()."
        )
    return value

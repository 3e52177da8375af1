"""Numbers that the user gives: finite, and no truth values; NumPy's and PyTorch's as well as Python's."""

import math
import operator
from numbers import Real
from typing import Any

import numpy as np
import torch


def require_number(owner: str, name: str, value: Any) -> float:
    """Give `value` as a float; raise ValueError unless it is one finite number.

    Args:
        owner: Class the value was given to, for the message.
        name: Its name there.
        value: What the user gave: a number of Python's or NumPy's, or a tensor or array of no dimensions.
    """
    if isinstance(value, torch.Tensor) and value.requires_grad:
        raise ValueError(
            f"{owner} was given {name} as a tensor that requires grad, but gradients do not reach it. Give a number, such as {name}.item()."
        )
    number = _of_python(value)
    if isinstance(number, bool) or not isinstance(number, Real) or not math.isfinite(number):
        raise ValueError(f"{owner} was given {name} = {value!r}. Give a finite number, such as 2.0.")
    return float(number)


def whole_number(value: Any) -> int | None:
    """Give `value` as an int; None unless it is one whole number, of Python's, NumPy's or PyTorch's integers."""
    number = _of_python(value)
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        return None
    try:
        return operator.index(number)
    except TypeError:  # several
        return None


def require_seed(owner: str, seed: Any) -> int:
    """Give `seed` as an int; raise ValueError unless it is a whole number of at least 0 that fits in 64 bits."""
    number = whole_number(seed)
    if number is None or not 0 <= number < 2**63:
        raise ValueError(f"{owner} was given seed = {seed!r}. Give a whole number from 0 to 2**63 - 1.")
    return number


def require_bool(owner: str, name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{owner} was given {name} = {value!r}. Give True or False.")


def _of_python(value: Any) -> Any:
    """Give a tensor or array of one number as a number of Python's, and anything else as it is."""
    if isinstance(value, torch.Tensor) and value.is_meta:  # it has no number
        return value
    several = isinstance(value, (torch.Tensor, np.ndarray)) and math.prod(value.shape) != 1
    return (
        value.item() if isinstance(value, (torch.Tensor, np.ndarray, np.generic)) and not several else value
    )

"""What a command has found, in the values that JSON knows."""

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_ext.bootstrap import Estimate

if TYPE_CHECKING:
    import pandas as pd


def plain(value: Any) -> Any:
    """Give a value as JSON has it: NaN and infinity become None, tuples lists, paths text, tensors and arrays lists of numbers.

    Raises:
        TypeError: JSON has nothing for it.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_name(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Set):
        return sorted(plain(inner) for inner in value)
    if hasattr(value, "tolist"):  # torch's and numpy's, single numbers among them
        return plain(value.tolist())
    raise TypeError(f"There is no JSON for {value!r:.80}, a {type(value).__name__}.")


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Give a data frame as a list of rows, each a mapping from column to value; None where a value is missing."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")  # pyright: ignore[reportReturnType]


def interval(found: Estimate) -> dict[str, float | None]:
    """Give a number with its 95 % interval."""
    return {"value": found.value, "low": found.low, "high": found.high}


def _name(key: Any) -> str:
    if not isinstance(key, str | int | float):
        raise TypeError(f"JSON has no name that is {key!r:.80}.")
    return str(key)

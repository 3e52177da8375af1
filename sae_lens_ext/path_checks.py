"""Paths that the user gives."""

import os
from pathlib import Path
from typing import Any


def optional_path(owner: str, name: str, value: Any) -> Path | None:
    """Give `value` as a path, or None if it is None; raise ValueError unless it is one of these.

    Args:
        owner: Function it was given to, for the message.
        name: Its name there.
        value: What the user gave: a text, or an object that stands for a path, as `pathlib.Path`.
    """
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(value) or not str(value):
        raise ValueError(f"{owner} was given {name} = {value!r:.100}. Give the path of a folder, or None.")
    return Path(value)

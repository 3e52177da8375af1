"""Saving and loading the results of analyses: JSON with a format marker, whole or not at all."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sae_lens_ext.files import write_whole

T = TypeVar("T")


def save_result(path: str | Path, file_format: str, content: Mapping[str, Any]) -> None:
    """Write a result as JSON.

    Args:
        path: The file; its folder must exist.
        file_format: What marks the file as one of its kind, such as "sae_lens_ext.DomainReport/1".
        content: The result, in what JSON knows; NaN and infinity are none of it.

    Raises:
        ValueError: A number is NaN or infinite. The file is as it was.
    """
    write_whole(path, json.dumps({"format": file_format, **content}, indent=1, allow_nan=False) + "\n")


def load_result(path: str | Path, file_format: str, build: Callable[[Any], T], again: str) -> T:
    """Read a result that `save_result` wrote.

    Args:
        path: The file.
        file_format: The marker it must have.
        build: Makes the result of the content.
        again: How to make such a result anew, for the message.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a whole result of this format.
    """
    path = Path(path)
    kind = file_format.partition("/")[0].rpartition(".")[2]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != file_format:
            raise ValueError(f"its format is {content['format']!r}")
        return build(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a {kind} that this version can read, {file_format} ({type(error).__name__}: {error}). Give a file that {kind}.save "
            f"wrote, or {again}."
        ) from error

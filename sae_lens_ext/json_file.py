"""JSON out of a file that may be anything: what cannot be read is a ValueError, whatever it is."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any


def require_file(path: Path, remedy: str) -> None:
    """Raise FileNotFoundError unless there is a file at a path.

    Args:
        path: Where it should be.
        remedy: What to do, a sentence.
    """
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder, where a file should be. {remedy}")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. {remedy}")


def read_json(path: Path) -> Any:
    """Read a JSON file, UTF-8; see `parse_json`.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is not JSON.
    """
    return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """Parse JSON, as RFC 8259 has it but for NaN and infinity, which Python writes.

    Raises:
        ValueError: It is not JSON or not UTF-8, is nested too deeply to be read, has a name twice in one object, or a number of
            thousands of digits.
    """
    return _parse(text)


def parse_finite_json(text: str | bytes) -> Any:
    """Do as `parse_json`, where NaN and infinity are refused, too."""
    return _parse(text, _finite)


def _parse(text: str | bytes, number: Callable[[str], float] | None = None) -> Any:
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=_unique, parse_constant=number, parse_float=number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply to be read") from error
    except MemoryError as error:
        raise ValueError("it is too large for this machine's memory") from error


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"it has {number:.20} in it, which is no number of JSON")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has the name {twice!r:.80} twice in one object")
    return found

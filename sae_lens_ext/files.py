"""Writing a file so that it is either whole or not there, and telling whether it is."""

import json
import os
from pathlib import Path


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file; a write that fails, or a crash, leaves what was there before.

    Args:
        path: The file; its folder must exist.
        text: What it shall hold, written as UTF-8.
    """
    write_whole_bytes(path, text.encode("utf-8"))


def write_whole_bytes(path: str | Path, data: bytes) -> None:
    """Do as `write_whole`, for a file that is not text.

    Args:
        path: The file; its folder must exist.
        data: What it shall hold.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def is_json(path: Path) -> bool:
    """Tell whether a file is there and holds JSON to its end."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True

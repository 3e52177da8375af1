"""Writing a file so that it is either whole or not there."""

import os
from pathlib import Path


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file; a write that fails, or a crash, leaves what was there before.

    Args:
        path: The file; its folder must exist.
        text: What it shall hold, written as UTF-8.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)

"""Names for what is being written, beside what it will replace: each process and each write has its own, and those of the dead are known."""

import itertools
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_numbers = itertools.count()
_ENDING = ".part"
_LONG = 86_400.0
"""Seconds after which what another machine was writing, and has not touched since, counts as given up."""


def new_aside(path: Path) -> Path:
    """Name a file or folder to write in place of `path`, on its disk, and remove what processes that have died left of such."""
    path = Path(os.path.realpath(path))
    for left in _asides(path):
        if _is_given_up(left):
            remove(left)
    folder = (
        path if path.is_mount() else path.parent
    )  # beside it, or within where another disk is mounted there
    return folder / f".{path.name}.{_machine()}-{os.getpid()}-{next(_numbers)}{_ENDING}"


def is_aside(path: Path) -> bool:
    """Tell whether a name is one of those."""
    return path.name.startswith(".") and path.name.endswith(_ENDING)


def remove(path: Path) -> None:
    """Remove a file, or a folder as far as the system lets it; nothing, if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _asides(path: Path) -> Iterator[Path]:
    folder = path if path.is_mount() else path.parent
    if folder.is_dir():
        yield from (
            entry for entry in folder.iterdir() if is_aside(entry) and entry.name.startswith(f".{path.name}.")
        )


def _is_given_up(aside: Path) -> bool:
    writer = re.search(r"\.([^.]*)-(\d+)-\d+\.part$", aside.name)
    if writer is not None and writer[1] == _machine():
        return not _is_alive(int(writer[2]))
    with suppress(OSError):
        return time.time() - aside.stat().st_mtime > _LONG
    return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _machine() -> str:
    return re.sub(r"[^\w]", "_", platform.node())

"""Names for what is being written, beside what it will replace: each process and each write has its own, and those of the dead are known."""

import itertools
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_numbers = itertools.count()
_ENDING, _BEFORE = ".part", ".before"
_LONGEST = 100  # of a name's characters; a file system takes 255 bytes
_LONG = 86_400.0
"""Seconds after which what another machine was writing, and has not touched since, counts as given up."""
_tokens: dict[int, str] = {}
"""By process id, which a fork changes: what tells this process from an earlier one with its id."""


def new_aside(path: Path) -> Path:
    """Name a file or folder to write in place of `path`, on its disk, and remove what processes that have died left of such.

    It is beside `path`; or within it, where that is a folder on a disk of its own, or one whose parent cannot be written in.
    """
    path = Path(os.path.realpath(path))
    folder = _place(path)
    for left in _asides(folder, path):
        if is_given_up(left):
            remove(left)
    writer = f"{_machine()}-{os.getpid()}-{_token()}-{next(_numbers)}"
    return folder / f"{_prefix(path)}{writer}{_ENDING}"


def before_of(path: Path) -> Path:
    """Name what was at `path`, for the moment in which something else takes its place where the two cannot change places."""
    return path.with_name(f".{path.name[:_LONGEST]}{_BEFORE}")


def is_aside(path: Path) -> bool:
    """Tell whether a name is one that something is written under."""
    return _writer(path) is not None


def is_before(path: Path) -> bool:
    """Tell whether a name is one of `before_of`."""
    return path.name.startswith(".") and path.name.endswith(_BEFORE)


def is_given_up(aside: Path) -> bool:
    """Tell whether the process that was writing an aside has died; of another machine's, whether it was long ago."""
    writer = _writer(aside)
    if writer is not None and writer[1] == _machine():
        process, token = int(writer[2]), writer[3]
        return token != _token() if process == os.getpid() else not _is_alive(process)
    with suppress(OSError):
        return time.time() - aside.stat().st_mtime > _LONG
    return False


def remove(path: Path) -> None:
    """Remove a file, or a folder as far as the system lets it; nothing, if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _place(path: Path) -> Path:
    within = path.is_dir() and (path.is_mount() or not os.access(path.parent, os.W_OK | os.X_OK))
    return path if within else path.parent


def _asides(folder: Path, path: Path) -> Iterator[Path]:
    if folder.is_dir():
        prefix = _prefix(path)
        yield from (entry for entry in folder.iterdir() if entry.name.startswith(prefix) and is_aside(entry))


def _prefix(path: Path) -> str:
    return f".{path.name[:_LONGEST]}."


def _writer(aside: Path) -> re.Match[str] | None:
    """Give machine, process and token of the writer from a name aside."""
    return re.fullmatch(r"\..*\.(\w*)-(\d+)-([0-9a-f]{8})-\d+\.part", aside.name)


def _token() -> str:
    return _tokens.setdefault(os.getpid(), uuid.uuid4().hex[:8])


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there, to ask would be to interrupt it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _machine() -> str:
    """Name the machine and, on Linux, the container: process ids mean something within one only."""
    name = re.sub(r"\W", "_", platform.node())
    with suppress(OSError):
        name += f"_{Path('/proc/self/ns/pid').stat().st_ino}"
    return name

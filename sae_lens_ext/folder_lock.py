"""A folder in which one process at a time works."""

import json
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sae_lens_ext.files import is_json, naming, write_whole

LOCK_FILE, HOLDER_FILE = ".working.lock", ".working.json"


class FolderInUseError(OSError):
    """Another process works in the folder."""


@contextmanager
def working_alone(folder: Path) -> Generator[None, None, None]:
    """Keep other processes, and other threads, from working in a folder while the block lasts; reading in it stays possible.

    The system releases the lock when its holder dies, however it dies, so that a run that was killed can be taken up at once. The file of the lock
    stays, as a file that is deleted while another process opens it would lock nothing.

    Args:
        folder: The folder, which exists.

    Raises:
        FolderInUseError: Another process works in it. Nothing was written.
        OSError: The folder cannot be written in.
    """
    from filelock import FileLock, Timeout

    lock, holder = FileLock(folder / LOCK_FILE), folder / HOLDER_FILE
    try:
        with naming(folder / LOCK_FILE):
            lock.acquire(timeout=0)
    except Timeout:
        raise FolderInUseError(
            f"Another process{_described(holder)} works in the folder {str(folder)!r}, so nothing was written there. Wait until it has finished or stop it, "
            "and run this again; or give another folder."
        ) from None
    try:
        write_whole(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        with suppress(OSError):  # of a folder that cannot be written in any more
            holder.unlink()
        lock.release()


def is_of_lock(path: Path) -> bool:
    """Tell whether a file in a folder is there for the lock alone."""
    return path.name.startswith((LOCK_FILE, HOLDER_FILE, f".{HOLDER_FILE}"))


def _described(holder: Path) -> str:
    """Say which process holds the lock, if it has noted that already."""
    noted: Any = json.loads(holder.read_text(encoding="utf-8")) if is_json(holder) else None
    return f" (pid {noted['pid']} on {noted['host']})" if isinstance(noted, dict) else ""

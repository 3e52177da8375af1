"""Folders that are dear to build, built once: safe under crashes, full disks and concurrent processes.

A folder is built under a hidden name beside its final place; its manifest is written last; one rename publishes it. A
lock, which the system releases when its holder dies, makes other processes wait instead of building the same thing.
A folder that is not what its manifest says is never used: it is built anew.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from sae_lens_ext.embedded.manifest import fault, flush_folder, write_manifest

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "SAE_LENS_EXT_CACHE"
LOCK_TIMEOUT = 900.0  # seconds


class CacheError(OSError):
    """A cached folder could not be built, for instance on a full or read-only disk."""


def cache_root() -> Path:
    """Returns `$SAE_LENS_EXT_CACHE`, else `$XDG_CACHE_HOME/sae_lens_ext`, else `~/.cache/sae_lens_ext`."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sae_lens_ext"


def cached_folder(key: str, build: Callable[[Path], None], root: Path) -> Path:
    """Returns the folder `root/key`, building it if it is missing, broken, half-written or somebody else's.

    Args:
        key: Name of the folder. It must change whenever what `build` writes would change.
        build: Called with an empty folder, into which it writes its files (no subfolders; hidden files are not kept
            track of). What it raises is passed on; an `OSError` becomes a `CacheError`.
        root: Where cached folders live; created if need be. A folder that is complete needs no right to write.

    Returns:
        A folder whose files agree with its manifest.

    Raises:
        CacheError: The folder could not be locked or written; the message names it.
    """
    folder = root / key
    if fault(folder, key) is None:
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        _build_locked(folder, build)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise CacheError(
            f"The cached folder {str(folder)!r} could not be built: {error}. Free some space there or make it "
            f"writable, or choose another place with the environment variable {CACHE_VARIABLE} or with cache_dir."
        ) from error
    return folder


def _build_locked(folder: Path, build: Callable[[Path], None]) -> None:
    from filelock import FileLock

    with FileLock(_beside(folder, "lock"), timeout=LOCK_TIMEOUT):
        problem = fault(folder, folder.name)
        if problem is None:  # another process built it while this one waited
            return
        _remove_partial(folder)  # whoever wrote these held the lock, so is dead
        if os.path.lexists(folder):
            logger.warning("The cached folder %s is not usable (%s); building it anew.", folder, problem)
        partial = _beside(folder, f"partial-{uuid.uuid4().hex}")
        try:
            partial.mkdir()
            build(partial)
            write_manifest(partial, folder.name)
            if os.path.lexists(folder):
                folder.rename(_beside(folder, f"partial-{uuid.uuid4().hex}"))
            partial.rename(folder)
            flush_folder(folder.parent)
        finally:
            _remove_partial(folder)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f".{folder.name}.{ending}")


def _remove_partial(folder: Path) -> None:
    for path in folder.parent.iterdir():
        if not path.name.startswith(_beside(folder, "partial-").name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

"""Writing a file or a folder so that it is either whole or not there, and telling whether it is."""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sae_lens_ext.asides import is_aside, new_aside, remove
from sae_lens_ext.exchange import exchange
from sae_lens_ext.json_file import read_json

_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "inline_container", "iostream")
_NOT_WRITTEN = "could not be written"


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file; a write that fails, or a crash, leaves what was there before.

    Args:
        path: The file; its folder must exist.
        text: What it shall hold, written as UTF-8.

    Raises:
        OSError: It cannot be written; the message names it.
    """
    write_whole_bytes(path, text.encode("utf-8"))


def write_whole_bytes(path: str | Path, data: bytes) -> None:
    """Do as `write_whole`, for a file that is not text.

    Args:
        path: The file; its folder must exist.
        data: What it shall hold.

    Raises:
        OSError: It cannot be written; the message names it.
    """
    path = Path(path)
    with naming(path):
        aside = new_aside(path)
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(os.path.realpath(path))
        except BaseException:
            remove(aside)
            raise
        to_disk(path.parent)


@contextmanager
def whole_folder(path: Path, *, keep_others: bool = False) -> Generator[Path, None, None]:
    """Give a folder beside `path` to write into, which takes its place when the block has ended well.

    A write that fails, or a crash, leaves what was there before.

    Args:
        path: The folder; it need not exist.
        keep_others: Leave what `path` holds besides what was written. Then files are replaced one by one, each of them whole.

    Raises:
        OSError: It cannot be written; the message names it.
    """
    if any(is_aside(folder) for folder in (path, *path.parents)):  # what will take its place as a whole
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with naming(path):
        aside = new_aside(path)
        aside.mkdir(parents=True)
        try:
            yield aside
            _take_place(aside, path, keep_others=keep_others)
        except BaseException:
            remove(aside)  # the disk may be full
            raise


def _take_place(aside: Path, path: Path, *, keep_others: bool) -> None:
    """Flush a folder to the disk and let it take the place of another."""
    path, written = Path(os.path.realpath(path)), sorted(aside.rglob("*"))
    for entry in (*written, aside):
        to_disk(entry)
    there = {entry.name for entry in path.iterdir()} - {aside.name} if path.is_dir() else set[str]()
    others = there - {entry.name for entry in written}
    if path.is_dir() and (path in aside.parents or _works_in(path) or (keep_others and others)):
        for entry in aside.iterdir():
            entry.replace(path / entry.name)
        for name in () if keep_others else others:
            remove(path / name)
        to_disk(path)
    elif _moved(aside, path):
        pass
    elif not exchange(aside, path):
        before = path.with_name(f".{path.name}.before")
        remove(before)
        path.replace(before)
        aside.replace(path)
        remove(before)
    to_disk(path.parent)
    remove(aside)


def _moved(aside: Path, path: Path) -> bool:
    """Give a folder its name, unless there is something of that name already, perhaps since a moment ago."""
    if path.exists():
        return False
    try:
        aside.replace(path)
    except OSError:
        if path.is_dir():
            return False
        raise
    return True


def _works_in(path: Path) -> bool:
    """Whether this process is in a folder, which would not be there any more if another took its place."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return False
    return here == path or path in here.parents


def to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk, where the system knows such a thing."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_json(path: Path) -> bool:
    """Tell whether a file is there and holds JSON to its end."""
    try:
        read_json(path)
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def naming(path: Path) -> Generator[None, None, None]:
    """Let an error of the system say which path could not be written: that of a full disk does not."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in _TORCH_CANNOT_WRITE):
            raise
        while isinstance(error.__cause__, OSError) and _NOT_WRITTEN in str(error):
            error = error.__cause__  # of a folder within this one
        number = error.errno if isinstance(error, OSError) else None
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OSError(
            number or errno.EIO,
            f"{path} {_NOT_WRITTEN} ({reason}), and is as it was before. Free some space there, make it writable, or give another path",
        ) from error

"""Writing a file or a folder so that it is either whole or not there, and telling whether it is."""

import errno
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from sae_lens_ext.asides import before_of, is_aside, new_aside, remove
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
    path = Path(os.path.realpath(path))
    with naming(path):
        if path.exists() and not path.is_file():  # a pipe or a device is written, and not replaced
            path.write_bytes(data)
            return
        aside = new_aside(path)
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _take_on_access(aside, path)
            aside.replace(path)
        except BaseException:
            remove(aside)
            raise
        to_disk(path.parent)


@contextmanager
def whole_folder(path: Path, *, keep_others: bool = False) -> Generator[Path, None, None]:
    """Give a folder beside `path` to write into, which takes its place when the block has ended well.

    A write that fails, or a crash, leaves what was there before. Whatever has the new folder's place, its access rights are those of the old one.

    Args:
        path: The folder; it need not exist.
        keep_others: Leave what `path` holds besides what was written. Where folders are among that, files are replaced one by one, each of
            them whole; so are they where the folder is a disk of its own, or the one that this process is in.

    Raises:
        NotADirectoryError: There is something else at `path`.
        OSError: It cannot be written; the message names it.
    """
    if any(is_aside(folder) for folder in (path, *path.parents)):  # what will take its place as a whole
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    require_folder(path)
    given, path = path, Path(os.path.realpath(path))
    with naming(given):
        _restore(path)
        aside = new_aside(path)
        aside.mkdir(parents=True)
        try:
            yield aside
            _take_place(aside, path, keep_others=keep_others)
        except BaseException:
            remove(aside)  # the disk may be full
            raise


def make_folder(path: Path) -> None:
    """Make a folder, and those it is in, unless it is there already.

    Args:
        path: The folder.

    Raises:
        NotADirectoryError: There is something else at `path`.
        OSError: It cannot be made; the message names it.
    """
    require_folder(path)
    with naming(path):
        path.mkdir(parents=True, exist_ok=True)


def require_folder(path: Path) -> None:
    """Raise NotADirectoryError if there is something at a path that is no folder."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(
            f"{path} is a file, where a folder should be written; it was left as it is. Give another path."
        )


def _take_place(aside: Path, path: Path, *, keep_others: bool) -> None:
    """Flush a folder to the disk and let it take the place of another."""
    written = {entry.name for entry in aside.iterdir()}
    others = (
        {entry.name for entry in path.iterdir()} - written - {aside.name} if path.is_dir() else set[str]()
    )
    one_by_one = path.is_dir() and (path in aside.parents or _works_in(path))
    if keep_others and not one_by_one:
        one_by_one = not _linked(path, others, aside)
    if path.is_dir():
        _take_on_access(aside, path)
    for entry in (*sorted(aside.rglob("*")), aside):
        to_disk(entry)
    if one_by_one:
        for entry in list(aside.iterdir()):
            entry.replace(path / entry.name)
        for name in () if keep_others else others:
            remove(path / name)
        to_disk(path)
    elif not _moved(aside, path):
        require_folder(path)
        if not exchange(aside, path):
            _replace(aside, path)
    to_disk(path.parent)
    remove(aside)


def _linked(path: Path, names: Iterable[str], aside: Path) -> bool:
    """Give files of a folder a second name in another, so that they are in both; False where that cannot be done for all."""
    made: list[Path] = []
    for name in names:
        try:
            if (path / name).is_symlink():
                (aside / name).symlink_to((path / name).readlink())
            else:
                os.link(path / name, aside / name)
        except OSError:  # a folder, or a file system without links
            for link in made:
                link.unlink()
            return False
        made.append(aside / name)
    return True


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


def _replace(aside: Path, path: Path) -> None:
    """Put a folder in the place of another where the two cannot change places in one step."""
    before = before_of(path)
    remove(before)
    path.replace(before)
    try:
        aside.replace(path)
    except BaseException:
        before.replace(path)
        raise
    remove(before)


def _restore(path: Path) -> None:
    """Give a folder its name back that a crash within `_replace` has left without."""
    before = before_of(path)
    if before.is_dir() and not path.exists():
        before.replace(path)


def _take_on_access(aside: Path, path: Path) -> None:
    """Give a file or folder the access rights, and where that is allowed the group, of what it will replace."""
    if not path.exists():
        return
    with suppress(OSError):
        shutil.copymode(path, aside)
    if os.name == "posix":
        with suppress(OSError):
            os.chown(aside, -1, path.stat().st_gid)
        with suppress(OSError):
            shutil.copymode(path, aside)  # to change the group may take rights away


def _works_in(path: Path) -> bool:
    """Whether this process is in a folder, which would not be there any more if another took its place."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return False
    return here == path or path in here.parents


def to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk, where the system knows such a thing."""
    if os.name != "posix" or path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
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
        if isinstance(error, OSError) and (error.errno is None or _is_elsewhere(error, path)):
            raise
        while isinstance(error.__cause__, OSError) and _NOT_WRITTEN in str(error):
            error = error.__cause__  # of a folder within this one
        number = error.errno if isinstance(error, OSError) else None
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OSError(
            number or errno.EIO,
            f"{path} {_NOT_WRITTEN} ({reason}), and is as it was before. Free some space there, make it writable, or give another path.",
        ) from error


def _is_elsewhere(error: OSError, path: Path) -> bool:
    """Whether an error is of a file that is neither beside a path, nor below it, nor a folder that it is in."""
    if not isinstance(error.filename, (str, bytes)):
        return False
    ours, named = Path(os.path.realpath(path)), Path(os.path.realpath(os.fsdecode(error.filename)))
    return ours.parent not in named.parents and named not in ours.parents

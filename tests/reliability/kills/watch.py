"""What a process does, one event after the other: every event is a moment at which it can be killed."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

STEP = "step"
"""The first word of an event within an optimiser's step; of all others it is what is done to a file."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AUDITED = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}

_ON_A_FULL_DISK = {STEP, "os.remove", "os.rmdir", "os.truncate"}


class Watch:
    """Writes down what this process does below a folder, and kills the process at the n-th event.

    An event is noted before it happens; files that a library writes without Python's knowledge are noted twice, before and when they
    are half there. There is no way back: watch in a process that ends.

    Args:
        folder: Where events count.
        log: A file, one event a line, its words divided by tabs: what happens, and to which path below the folder.
        kill_at: Which event is the last, from 0; None for none.
        full_from: From which event on the disk is full, so that nothing but removing works (ENOSPC); None for never.
    """

    def __init__(
        self, folder: Path, log: Path, kill_at: int | None = None, full_from: int | None = None
    ) -> None:
        self._folder, self._kill_at, self._full_from, self._n = folder, kill_at, full_from, 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sys.addaudithook(self._audit)
        register_optimizer_step_pre_hook(lambda *_: self._note(STEP, "begins"))
        register_optimizer_step_post_hook(lambda *_: self._note(STEP, "ends"))
        os.fsync = self._around_fsync(os.fsync)
        torch.save = self._around(torch.save, "torch.save", place=1)
        safetensors.torch.serialize_file = self._around(
            safetensors.torch.serialize_file, "safetensors", place=1
        )

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and flags & _WRITING:
                self._of_path("open", path)
        elif event in _AUDITED:
            folder = arguments[1] if event in ("os.remove", "os.rmdir") else -1
            self._of_path(event, arguments[1] if event == "os.rename" else arguments[0], folder)

    def _of_path(self, event: str, path: Any, folder: int = -1) -> None:
        name = Path(os.fsdecode(path))
        place = (Path.cwd() if folder < 0 else _path_of(folder)) / name
        if self._folder in place.parents:
            self._note(event, str(place.relative_to(self._folder)))

    def _note(self, event: str, what: str, before: Callable[[], None] | None = None) -> None:
        os.write(self._log, f"{event}\t{what}\n".encode())
        if self._n == self._kill_at:
            if before is not None:
                before()
            os.kill(os.getpid(), signal.SIGKILL)
        full = self._full_from is not None and self._n >= self._full_from
        self._n += 1
        if full and event not in _ON_A_FULL_DISK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _around(self, write: Callable[..., Any], name: str, place: int) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            path = arguments[place]
            if isinstance(path, (str, os.PathLike)) and self._folder in Path(path).parents:
                what = str(Path(path).relative_to(self._folder))
                self._note(f"before {name}", what)
                result = write(*arguments, **options)
                self._note(f"half {name}", what, lambda: _halve(Path(path)))
                return result
            return write(*arguments, **options)

        return watched

    def _around_fsync(self, fsync: Callable[[Any], None]) -> Callable[[Any], None]:
        def watched(descriptor: Any) -> None:
            path = _path_of(descriptor)
            if path.is_relative_to(self._folder):
                halve = (lambda: _halve(path)) if path.is_file() else None
                self._note("before os.fsync", str(path.relative_to(self._folder)), halve)
            fsync(descriptor)

        return watched


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _halve(path: Path) -> None:
    """Leave of a file what a crash in the middle of writing leaves."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def read_events(log: Path) -> list[tuple[str, str]]:
    """Read a log that a `Watch` wrote: what happened, and to what."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(event, what) for event, _, what in (line.partition("\t") for line in lines)]

"""One life of a piece of work, in a process of its own that may be killed."""

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.reliability.kills.ordinary_user import obey_access_rights
from tests.reliability.kills.watch import Watch, read_events

Work = Callable[[Path], None]
"""Called with its folder; goes on with what is there."""
_TOO_LONG = 120
"""Seconds that no work here needs."""


@dataclass(frozen=True)
class Life:
    """How a process has ended, and what it had done by then."""

    error: str | None
    """What it failed with, a traceback; None if it ended well or was killed."""
    killed: bool
    """Whether it was killed."""
    events: list[tuple[str, str]]
    """What it did, see `Watch`; the last one has not happened if it was killed there."""


def live(
    work: Work,
    folder: Path,
    *,
    kill_at: int | None = None,
    kill_after: float | None = None,
    largest_file: int | None = None,
    full_from: int | None = None,
    ordinary_user: bool = False,
) -> Life:
    """Do some work in a forked process.

    Args:
        work: The work.
        folder: Where it works.
        kill_at: Kill the process at this event, from 0.
        kill_after: Kill it after so many seconds.
        largest_file: Bytes from which on a write fails (EFBIG), as on a disk that is full; what the work does is not watched then.
        full_from: The event from which on the disk is full, see `Watch`.
        ordinary_user: Let access rights stop the process, even if root runs it.
    """
    with tempfile.TemporaryDirectory() as ours:
        log, failure = Path(ours) / "events", Path(ours) / "error"

        def child() -> None:
            torch.set_num_threads(1)
            _silence()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            if ordinary_user:
                obey_access_rights()
            if largest_file is None:
                Watch(folder, log, kill_at, full_from)
            try:
                with _limited(largest_file):
                    work(folder)
            except BaseException:
                failure.write_text(traceback.format_exc())
                os._exit(1)
            os._exit(0)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(timeout=_TOO_LONG if kill_after is None else kill_after)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        if late and kill_after is None:
            raise TimeoutError(f"The work in {folder} has not ended in {_TOO_LONG} seconds.")
        killed = process.exitcode == -signal.SIGKILL
        error = failure.read_text() if failure.exists() else None
        if not killed and process.exitcode and error is None:
            error = f"It ended with exit code {process.exitcode}."
        return Life(error, killed, read_events(log))


@contextmanager
def _limited(largest_file: int | None) -> Generator[None, None, None]:
    """Let writes fail that make a file larger than this."""
    most = resource.RLIM_INFINITY if largest_file is None else largest_file
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)

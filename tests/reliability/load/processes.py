"""Processes of the operating system that do something at the same moment."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_FORK = multiprocessing.get_context("fork")
TIMEOUT = 60.0


def fork(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start a process that calls a function, which may be a closure."""
    process = _FORK.Process(target=function, args=arguments)
    process.start()
    return process


def at_once(n: int, function: Callable[[int], Any], folder: Path) -> list[str]:
    """Let n processes call a function with their number at the same moment; give what each returned, or the error it met, as text."""
    barrier = _FORK.Barrier(n)

    def call(i: int) -> None:
        barrier.wait(TIMEOUT)
        try:
            said = str(function(i))
        except Exception as error:
            said = (
                f"{type(error).__name__}: {error}"
                if isinstance(error, (OSError, ValueError))
                else traceback.format_exc()
            )
        (folder / f"{i}.said").write_text(said)

    folder.mkdir(exist_ok=True)
    processes = [fork(call, i) for i in range(n)]
    for process in processes:
        process.join(TIMEOUT)
        assert process.exitcode == 0
    return [(folder / f"{i}.said").read_text() for i in range(n)]


class Held:
    """A process that does something up to a point and stays there, until it is let go or killed.

    Args:
        function: Called with what it calls once it has come to the point; that call returns when the process is let go.
    """

    def __init__(self, function: Callable[[Callable[[], None]], object]) -> None:
        self._ours, self._theirs = _FORK.Pipe()  # unlike an Event it does not mind if one end is killed
        self.process = fork(function, self._stay)
        assert self._ours.poll(TIMEOUT)
        self._ours.recv()

    def _stay(self) -> None:
        self._theirs.send("there")
        self._theirs.poll(TIMEOUT)

    @property
    def pid(self) -> int:
        """The process' number."""
        assert self.process.pid is not None
        return self.process.pid

    def let_go(self) -> None:
        """Let it go on, and wait until it has ended."""
        self._ours.send("go")
        self.process.join(TIMEOUT)

    def kill(self) -> None:
        """Kill it where it is (SIGKILL), and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.join(TIMEOUT)

"""Spoils one file of one loader and reads it, in a process of its own, and says what came of it."""

import atexit
import json
import os
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.reliability.files.damage import Damage, damages_of, without_checksum
from tests.reliability.files.loaders import Loader, loaders
from tests.reliability.files.same import same

EQUAL, REFUSED, OTHER = "equal", "refused", "other"
"""What may come of a case. `OTHER`: what was read is another thing of the right kind, where no checksum can tell."""
ALLOWED = (EQUAL, REFUSED, OTHER)
MAX_SECONDS, MAX_GROWTH = 5, 300 * 2**20
_ROOM = 8 * 2**30  # bytes of address space beyond what there is: a reader that runs away is stopped
_REMEDY = re.compile(
    r"\b(Give|Copy|Restore|Delete|Load|Remove|Make|Look|Save|Wait|Install|Export|Build|[Ii]mport|Pass)\b"
)


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    loader: str
    damage: str
    result: str
    """`EQUAL`, `REFUSED`, `OTHER`, or what went wrong."""
    seconds: float
    """Of the processor."""
    growth: int
    """Bytes by which the process grew at most."""


def cases(n: int, seed: int) -> list[tuple[Loader, str, Damage, int]]:
    """Draw cases: a loader, the file of it, a damage, a seed. Every loader has every damage before one comes twice."""
    random, drawn = Random(seed), []
    every: list[tuple[Loader, str, Damage]] = []
    for loader in loaders():
        whole = prepared(loader)
        every += [
            (loader, file, damage) for file in whole.files for damage in damages_of(whole.folder / file)
        ]
    while len(drawn) < n:
        random.shuffle(every)
        drawn += [(*case, random.randrange(2**32)) for case in every]
    return drawn[:n]


@dataclass(frozen=True)
class Prepared:
    """What a loader reads, whole."""

    folder: Path
    """Where it is."""
    files: tuple[str, ...]
    """Its files, below the folder; not those of an earlier checkpoint."""
    loaded: Any
    """What is read."""


@cache
def prepared(loader: Loader) -> Prepared:
    """Make a loader's thing, once; it is removed when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = target(loader, folder)
    loader.make(path)
    files = [file for file in folder.rglob("*") if file.is_file() and "/64/" not in file.as_posix()]
    names = sorted(file.relative_to(folder).as_posix() for file in files if file.name != "checksums.json")
    loaded = loader.load(path)
    assert same(loaded, loader.load(path)), "what is read twice differs"
    return Prepared(folder, tuple(names), loaded)


def target(loader: Loader, folder: Path) -> Path:
    """Where a loader's thing is."""
    return folder / f"thing{loader.ending}"


def foreign_files(folder: Path) -> None:
    """Make a folder with a file of every kind."""
    folder.mkdir()
    for i, whole in enumerate(map(prepared, loaders())):
        for j, name in enumerate(whole.files):
            shutil.copy(whole.folder / name, folder / f"{i}-{j}{Path(name).suffix}")


def outcome(loader: Loader, file: str, damage: Damage, seed: int, foreign: Path) -> Outcome:
    """Run one case in a forked process."""

    whole = prepared(loader)

    def case() -> str:
        with tempfile.TemporaryDirectory() as temporary:
            folder = shutil.copytree(whole.folder, Path(temporary) / "case")
            path = target(loader, folder)
            hacked = Path(temporary) / "hacked"
            os.environ.update(HACKED=str(hacked), FOREIGN=str(foreign))
            damage(folder / file, Random(seed))
            begun = _growth_from()
            result = _result(loader, path, whole.loaded, damage)
            assert not hacked.exists(), "a pickle was run"
            return json.dumps([result, *begun()])

    code, written = in_child(case)
    try:
        result, seconds, growth = json.loads(written)
    except ValueError:
        result, seconds, growth = f"the process ended with {code}: {written[-500:]}", 0.0, 0
    if seconds > MAX_SECONDS:
        result = f"it took {seconds:.1f} s ({result})"
    if growth > MAX_GROWTH:
        result = f"it took {growth / 2**20:.0f} MiB ({result})"
    return Outcome(loader.name, damage.__name__, result, seconds, growth)


def _result(loader: Loader, path: Path, expected: Any, damage: Damage) -> str:
    try:
        found = loader.load(path)
    except Exception as error:
        return REFUSED if _is_ours(error, path) else f"raised {type(error).__name__}: {error}"[:600]
    if same(found, expected):
        return EQUAL
    if loader.sealed and damage is not without_checksum:
        return f"read as another: {found!r}"[:600]
    return OTHER


def _is_ours(error: Exception, path: Path) -> bool:
    kind = type(error)
    known = kind in (ValueError, FileNotFoundError) or kind.__module__.startswith(("sae_lens_ext", "tests"))
    return known and str(path) in str(error) and bool(_REMEDY.search(str(error)))


def _growth_from() -> Callable[[], tuple[float, int]]:
    """Give a function that tells processor time and growth from now on."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + _ROOM, virtual + _ROOM))
    start = time.process_time()

    def now() -> tuple[float, int]:
        seconds = time.process_time() - start
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert peak
        return seconds, max(0, int(peak[1]) * 1024 - resident)

    return now


def in_child(function: Callable[[], str]) -> tuple[int, str]:
    """Call a function in a forked process and give the exit status and what it returned, or how it failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            torch.set_num_threads(1)
            signal.alarm(120)
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            text = function()
        except BaseException:
            text = traceback.format_exc()
        with os.fdopen(writing, "w", encoding="utf-8", errors="replace") as pipe:
            pipe.write(text)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    return os.waitpid(child, 0)[1], text


def run(n: int, seed: int) -> list[Outcome]:
    """Run drawn cases."""
    with tempfile.TemporaryDirectory() as folder:
        foreign = Path(folder) / "foreign"
        foreign_files(foreign)
        return [outcome(loader, file, damage, own, foreign) for loader, file, damage, own in cases(n, seed)]


def faults(found: list[Outcome]) -> list[dict[str, Any]]:
    """Give the cases of which came what may not."""
    return [asdict(one) for one in found if one.result not in ALLOWED]

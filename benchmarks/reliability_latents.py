"""Peak memory and time of what the package does with SAEs of 131,072 latents, d_in 576, float32, each in a process of its own.

The decoders are random rows of unit length. Smaller sizes are measured first; a larger one is begun only if the straight line through those
stays below the limit. Linux only.

python benchmarks/reliability_latents.py                       writes reliability_latents.json; hours on two cores
python benchmarks/reliability_latents.py --sizes 16384 32768   smaller ones only; what was measured before is kept in .cache
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from own_process import in_own_process
from result import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.reliability.load.latents import BATCH, TASKS, K
from tests.reliability.load.memory import own_mib, peak_mib

SIZES = (16_384, 32_768, 65_536, 131_072)
D_IN = 576
LIMIT_GIB = 20.0
CACHE = Path(__file__).parent / ".cache" / "reliability_latents"


def main() -> None:
    """Measure what was not measured yet and write; with --one, measure a single task in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("TASK", "LATENTS"))
    parser.add_argument("--only", help="tasks whose name contains this")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--limit-gib", type=float, default=LIMIT_GIB)
    args = parser.parse_args()
    if args.one:
        task, latents = args.one
        print(json.dumps(measure(task, int(latents), args.limit_gib)))
        return
    for task in TASKS:
        if args.only is None or args.only in task:
            for latents in sorted(args.sizes):
                _measured(task, latents, args.limit_gib)
    _report()


def measure(task: str, latents: int, limit_gib: float) -> dict[str, float]:
    """Do one task with SAEs of so many latents."""
    limit = int(limit_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = own_mib()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        started = time.monotonic()
        TASKS[task](latents, D_IN, Path(folder))
        seconds = time.monotonic() - started
    one_sae = 2 * 4 * latents * D_IN / 2**20
    return {
        "seconds": round(seconds, 1),
        "peak_mib": round(peak_mib(), 1),
        "before_mib": round(before, 1),
        "peak_in_saes": round((peak_mib() - before) / one_sae, 2),
        "threads": torch.get_num_threads(),
    }


def _measured(task: str, latents: int, limit_gib: float) -> None:
    cached = _cached(task, latents)
    expected = _expected(task, latents)
    if cached.exists():
        return
    if expected > 1024 * limit_gib:
        print(f"{task}, {latents}: skipped, expected {expected:,.0f} MiB", flush=True)
        return
    found = in_own_process(__file__, "--one", task, str(latents), "--limit-gib", str(limit_gib))
    if found is not None:
        cached.write_text(found)
        print(f"{task}, {latents}: {found}", flush=True)


def _expected(task: str, latents: int) -> float:
    """Give the peak, in MiB, of the straight line through what was measured of smaller SAEs."""
    smaller = [size for size in SIZES if size < latents and _cached(task, size).exists()]
    if len(smaller) < 2:
        return 0.0
    peaks = [json.loads(_cached(task, size).read_text())["peak_mib"] for size in smaller]
    return float(np.polyval(np.polyfit(smaller, peaks, 1), latents))


def _cached(task: str, latents: int) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "_" for c in task)
    return CACHE / f"{name}_{latents}.json"


def _report() -> None:
    found: dict[str, dict[str, Any]] = {
        task: {
            str(latents): json.loads(_cached(task, latents).read_text())
            for latents in SIZES
            if _cached(task, latents).exists()
        }
        for task in TASKS
    }
    setting = {"d_in": D_IN, "k": K, "batch": BATCH, "limit_gib": LIMIT_GIB}
    write_result(__file__, {"setting": setting, "tasks": found})


if __name__ == "__main__":
    main()

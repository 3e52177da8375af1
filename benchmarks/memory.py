"""Peak memory of a training step above parameters, gradients and optimiser state, one process per SAE.

python benchmarks/memory.py         writes memory.json and memory.svg; about ten minutes on two cores. Linux only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from result import bars, write_figure, write_result
from saes import HIERARCHICAL, KRON, KRON_BUDGETS, MATRYOSHKA, PLAIN, POWERS, TOPK, make, trainer

SIZES = {
    # The size of the speed targets, the same with dead latents, and one at which [B, F] alone takes 4 GiB.
    "B 2048, F 16384": {"batch": 2048, "d_in": 576, "d_sae": 2**14, "k": 64, "dead": 0},
    "B 2048, F 16384, 300 dead latents": {"batch": 2048, "d_in": 576, "d_sae": 2**14, "k": 64, "dead": 300},
    "B 2048, F 131072": {"batch": 2048, "d_in": 576, "d_sae": 2**17, "k": 64, "dead": 0},
    "B 8192, F 131072": {"batch": 8192, "d_in": 576, "d_sae": 2**17, "k": 64, "dead": 0},
}
NAMES = (TOPK, MATRYOSHKA, KRON, KRON_BUDGETS, HIERARCHICAL, POWERS, PLAIN)
LARGE_NAMES = (TOPK, KRON, HIERARCHICAL)  # the rest would only take long
LARGE = 2**15  # latents
LIMIT_GIB = 20  # of address space per process, so that a step that needs more fails instead of the machine


def main() -> None:
    """Measure, draw, write; with --one, measure a single SAE in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "NAME"))
    args = parser.parse_args()
    if args.one:
        size, name = args.one
        print(json.dumps(step_memory(name, **SIZES[size])))
        return
    tables: dict[str, dict[str, dict]] = {}
    for size in SIZES:
        tables[size] = {}
        for name in NAMES if SIZES[size]["d_sae"] < LARGE else LARGE_NAMES:
            tables[size][name] = _in_own_process(size, name)
            print(f"{size:36s} {name:34s} {tables[size][name]}", flush=True)
    write_result(__file__, {"sizes": SIZES, "limit_gib": LIMIT_GIB, "peak": tables})
    first = next(iter(SIZES))
    peak = {name: row["working_mib"] for name, row in tables[first].items() if "working_mib" in row}
    title = f"Peak of a step above parameters, gradients and optimiser state ({first}, k = 64)"
    write_figure(__file__, bars(title, "MiB", peak, peak, peak))


def _in_own_process(size: str, name: str) -> dict:
    # With these two, freed memory goes back to the system at once, and the resident set is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, __file__, "--one", size, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    reason = "out of memory" if "alloc" in done.stderr.lower() or done.returncode < 0 else "failed"
    return {
        reason: done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else str(done.returncode)
    }


def step_memory(name: str, *, batch: int, d_in: int, d_sae: int, k: int, dead: int) -> dict[str, float]:
    """Take two steps and measure the peak of a third.

    Returns:
        In MiB: `held` for parameters, gradients and optimiser state, `working` for the rest of the peak.
    """
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GIB * 2**30, LIMIT_GIB * 2**30))
    torch.manual_seed(0)
    sae = make(name, d_in, d_sae, k)
    step = trainer(sae, batch, dead).step
    x = torch.randn(batch, d_in)
    for _ in range(2):
        step(x)
    gradients = sum(p.numel() * p.element_size() for p in sae.parameters())
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    step(x)
    return {
        "working_mib": round((_resident("VmHWM") - before - gradients) / 2**20, 1),
        "held_mib": round(4 * gradients / 2**20, 1),
        "one_dense_batch_mib": round(4 * batch * d_sae / 2**20, 1),
    }


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    main()

"""Run every example with a tiny budget, as continuous integration does: `python examples/run_all.py`.

Each runs as a program of its own in an empty temporary folder with SAE_LENS_EXT_SMALL=1, those of IN_RANKS in several processes.
Prints a line for each and ends with status 1 after the first that fails, showing its output. Takes about a minute and a half.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMEOUT = 600  # seconds for each example
FOLDER = Path(__file__).resolve().parent
EXAMPLES = (
    "train_hierarchical_topk.py",
    "train_kron.py",
    "augment_with_residual.py",
    "train_many_at_once.py",
    "feature_stability.py",
    "feature_flow.py",
    "steering.py",
    "rl_steering_vectors.py",
    "lime.py",
    "time_a_step.py",
    "over_ranks.py",
    "kill_and_go_on.py",
    "first_hour.py",
    "upload_to_hub.py",
)
IN_RANKS = {"over_ranks.py": 2}
"""Those that torchrun starts, and in how many processes."""


def command(example: Path) -> list[str]:
    """Give the command that runs an example."""
    launcher: list[str] = []
    if example.name in IN_RANKS:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(IN_RANKS[example.name])]
    return [sys.executable, *launcher, str(example)]


def run(example: Path) -> tuple[int, str]:
    """Run one example; returns its exit status (124 when it took too long) and what it printed."""
    environment = {**os.environ, "SAE_LENS_EXT_SMALL": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    environment.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # on a busy machine several threads spend their time waiting
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command(example),
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            output, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.terminate()  # and not killed: torchrun must end its ranks, which would outlive it
            return 124, process.communicate()[0]
    return process.returncode, output


def main() -> int:
    """Run all examples; returns the exit status."""
    forgotten = {path.name for path in FOLDER.glob("*.py")} - {*EXAMPLES, Path(__file__).name}
    if forgotten:
        print(f"examples/run_all.py does not list {', '.join(sorted(forgotten))}. Add it to EXAMPLES.")
        return 1
    for name in EXAMPLES:
        started = time.monotonic()
        status, output = run(FOLDER / name)
        verdict = "ok" if status == 0 else f"FAILED with status {status}"
        print(f"{name:<32}{time.monotonic() - started:6.1f} s   {verdict}", flush=True)
        if status != 0:
            print(output)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Kill a rank of a job, and let one hang, on the embedded model: what happens, and what becomes of the SAE.

A job of two ranks in data parallel, and one of divided seeds, are trained once in peace and once with a rank killed (SIGKILL) when
the second checkpoint is there; torchrun starts them anew. In a third job a rank is stopped (SIGSTOP), and the seconds until the job has
ended are counted.

    python benchmarks/scale_faults.py
"""

import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch
from result import write_result
from safetensors.torch import load_file
from scale_jobs import PLAIN_TOPK, SETTINGS, Job, start

CACHE = Path(__file__).parent / ".cache" / "scale_faults"
TOKENS = 30_720
RANK_TIMEOUT = 20
JOBS = {"data parallel": {}, "divided seeds": {"seeds": "0,1", **PLAIN_TOPK}}


def ranks_of(job: Job) -> list[int]:
    """Give the processes of a job's ranks: the children of torchrun."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == job.process.pid:
            found.append(int(status.parent.name))
    return sorted(found)


def wait_for_checkpoints(folder: Path, n: int, job: Job) -> None:
    """Wait until so many whole checkpoints are there."""
    while len(list(folder.glob("**/runner_cfg.json"))) < n:
        if job.process.poll() is not None:
            raise SystemExit(f"The job ended too early; see {job.log}.")
        time.sleep(0.05)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Give all weights of a finished job."""
    return {
        f"{path.parent.name}/{name}": tensor
        for path in sorted((folder / "sae").glob("**/sae_weights.safetensors"))
        for name, tensor in load_file(path).items()
        if "checkpoints" not in path.parts[len((folder / "sae").parts) :]
    }


def killed(name: str, changes: dict[str, str | None]) -> dict[str, Any]:
    """Train in peace and with a rank killed, and compare."""
    settings = {"training_tokens": str(TOKENS), "n_checkpoints": "5", **changes}
    folder = CACHE / name.replace(" ", "_")
    peace = start(folder / "peace", 2, **settings).finished()
    job = start(folder / "killed", 2, launcher=("--max-restarts", "1"), **settings)
    wait_for_checkpoints(folder / "killed", 2, job)
    os.kill(ranks_of(job)[1], signal.SIGKILL)
    seconds = job.finished()
    going_on = re.findall(r"Going on from the checkpoint[^\n]*", job.log.read_text())
    expected, found = weights(folder / "peace"), weights(folder / "killed")
    assert expected.keys() == found.keys() and expected
    return {
        "seconds_in_peace": peace,
        "seconds_with_a_rank_killed": seconds,
        "said": [re.sub(r"\S*/(\d+)", r"…/\1", line) for line in going_on],
        "largest_difference": max(float((found[k] - expected[k]).abs().max()) for k in expected),
        "equal_to_the_bit": all(torch.equal(found[k], expected[k]) for k in expected),
    }


def hanging() -> dict[str, Any]:
    """Stop a rank, and see how long the job takes to end and what it says."""
    environment = {"SAE_LENS_EXT_RANK_TIMEOUT": str(RANK_TIMEOUT)}
    folder = CACHE / "hanging"
    job = start(folder, 2, environment=environment, training_tokens=str(TOKENS), n_checkpoints="5")
    wait_for_checkpoints(folder, 1, job)
    stopped = time.perf_counter()
    os.kill(ranks_of(job)[1], signal.SIGSTOP)
    status = job.process.wait()
    said = re.findall(r"sae-lens-ext[^\n]*got no answer[^\n]*", job.log.read_text())
    return {
        "rank_timeout": RANK_TIMEOUT,
        "seconds_until_the_job_had_ended": time.perf_counter() - stopped,
        "exit_status": status,
        "said": said,
        "sae_written": (folder / "sae").exists(),
    }


def main() -> None:
    """Do all three and write the result."""
    shutil.rmtree(CACHE, ignore_errors=True)
    result = {name: killed(name, changes) for name, changes in JOBS.items()}
    write_result(__file__, {"settings": SETTINGS, "tokens": TOKENS, "killed": result, "hanging": hanging()})


if __name__ == "__main__":
    main()

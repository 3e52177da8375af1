"""Start `sae-lens-ext train` on the embedded model in one process or under torchrun, one thread a process, and time it."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SETTINGS = {
    "architecture": "hierarchical_topk",
    "sae.budgets": "32",
    "k": "32",
    "d_in": "576",
    "d_sae": "2048",
    "model_name": "embedded",
    "dataset_path": "embedded:encyclopedia",
    "hook_name": "blocks.10.hook_resid_post",
    "train_batch_size_tokens": "1024",
    "store_batch_size_prompts": "8",
    "n_batches_in_buffer": "64",
    "lr": "3e-3",
    "exclude_special_tokens": "true",
    "autocast_lm": "true",
    "log_to_wandb": "false",
}
"""A TopK SAE of the embedded model's layer 10: `budgets` of one is plain TopK."""

PLAIN_TOPK = {"architecture": "topk", "sae.budgets": None}
"""Changes of SETTINGS for SAELens' own TopK."""


@dataclass(frozen=True)
class Job:
    """A command that has been started."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float

    def finished(self) -> float:
        """Wait until it has ended well, and give its seconds."""
        if self.process.wait() != 0:
            raise SystemExit(f"The job failed; see {self.log}.")
        return time.perf_counter() - self.started


def start(
    folder: Path,
    n: int,
    *,
    launcher: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    **changes: str | None,
) -> Job:
    """Start training into `folder` by `n` processes; 0 is one process without torchrun.

    Args:
        folder: SAE, checkpoints and log go there.
        n: Processes.
        launcher: Further words for torchrun.
        environment: Further variables.
        changes: Flags of `train` that differ from SETTINGS; `parallel` among them; None leaves a flag out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        **SETTINGS,
        **changes,
        "output_path": str(folder / "sae"),
        "checkpoint_path": str(folder / "checkpoints"),
    }
    words = [
        "train",
        *(word for name, value in settings.items() if value is not None for word in (f"--{name}", value)),
    ]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *launcher]
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *(torchrun if n else []), "-m", "sae_lens_ext", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Job(process, log, time.perf_counter())


def checkpoints(folder: Path) -> dict[int, Path]:
    """Give a job's checkpoints by their tokens, in order."""
    found = [path for path in (folder / "checkpoints").glob("*/*") if path.name.isdigit()]
    return {int(path.name): path for path in sorted(found, key=lambda path: int(path.name))}

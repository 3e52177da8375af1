"""A tiny training job as a user would write it, for `torchrun`: data parallel, or SAEs divided over the ranks.

    torchrun --nproc-per-node 2 torchrun_job.py data|tensor|seeds FOLDER [kill|hang]

In its first start, rank 1 kills itself or hangs in the middle of the seventh step, if that is asked for.
"""

import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from sae_lens import HookedSAETransformer
from sae_lens.training.sae_trainer import SAETrainer
from transformer_lens import HookedTransformerConfig

from sae_lens_ext import train_seeds
from sae_lens_ext.training.runner import DataParallelRunner
from sae_lens_ext.training.tensor_parallel import TensorParallelRunner
from tests.analysis.seeds.tiny import single
from tests.conftest import TINY, tokens_of_the_data_set

RUNNERS = {"data": DataParallelRunner, "tensor": TensorParallelRunner}


def main(job: str, folder: Path, fault: str = "") -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if fault and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        SAETrainer.step = failing(SAETrainer.step, fault)
    cfg = HookedTransformerConfig(**TINY, normalization_type="LN", device="cpu")
    world: dict[str, Any] = {
        "override_model": HookedSAETransformer(cfg).eval(),
        "override_dataset": tokens_of_the_data_set(),
    }
    if job in RUNNERS:
        cfg = single(folder / "sae", n_checkpoints=4, checkpoint_path=str(folder / "checkpoints"))
        RUNNERS[job](cfg, **world).run()
    else:
        train_seeds(single(folder / "saes", n_checkpoints=4), range(2), **world)


def failing(step: Any, fault: str) -> Any:
    taken: list[int] = []

    def stepping(trainer: Any, batch: torch.Tensor) -> Any:
        taken.append(1)
        if len(taken) == 7:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            signal.signal(
                signal.SIGTERM, signal.SIG_DFL
            )  # torchrun waits half a minute for one that ignores it
            time.sleep(600)
        return step(trainer, batch)

    return stepping


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])

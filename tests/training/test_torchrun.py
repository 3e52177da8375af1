"""Jobs that `torchrun` really starts: a rank that is killed or hangs, and what is printed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE

from sae_lens_ext import train_seeds
from sae_lens_ext.training.runner import DataParallelRunner
from tests.analysis.seeds.tiny import equal_weights, single

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def torchrun(*words: str | Path, restarts: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    job = ["--max-restarts", str(restarts), "tests/training/torchrun_job.py", *map(str, words)]
    return subprocess.run(
        [sys.executable, *launcher, *job],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "",
            **environment,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def world(hooked_model, token_dataset, restored_signals) -> dict[str, Any]:
    return {"override_model": hooked_model, "override_dataset": token_dataset}


@pytest.mark.parametrize("job", ["data", "tensor"])
def test_a_killed_rank_is_restarted_and_the_job_ends_with_the_same_weights(
    world, job: str, tmp_path: Path
) -> None:
    DataParallelRunner(single(tmp_path / "one"), **world).run()
    done = torchrun(job, tmp_path, "kill", restarts=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Signal 9 (SIGKILL)" in done.stderr or "exitcode: -9" in done.stderr
    assert done.stdout.count("Going on from the checkpoint") == 1
    one, many = (SAE.load_from_disk(tmp_path / name).state_dict() for name in ("one", "sae"))
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, rtol=1e-4, atol=1e-5)


def test_divided_seeds_are_restarted_and_end_the_same_to_the_bit(world, tmp_path: Path) -> None:
    expected = train_seeds(single(tmp_path / "one"), range(2), **world)
    done = torchrun("seeds", tmp_path, "kill", restarts=1)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [SAE.load_from_disk(tmp_path / f"saes/seed_{seed}") for seed in range(2)]
    assert all(equal_weights(*pair) for pair in zip(found, expected, strict=True))


def test_a_rank_that_hangs_ends_the_job_with_a_sentence(tmp_path: Path) -> None:
    done = torchrun("data", tmp_path, "hang", SAE_LENS_EXT_RANK_TIMEOUT="15")
    assert done.returncode != 0
    assert "Rank 0 of 2 got no answer from another rank while" in done.stderr
    assert "did not come here within 15 seconds" in done.stderr
    assert not (tmp_path / "sae").exists()
    checkpoints = list((tmp_path / "checkpoints").glob("*/*"))
    assert sorted(path.name for path in checkpoints) == ["192", "320"]

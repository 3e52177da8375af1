"""Nothing that the package does with SAEs holds a matrix of latents by latents, or more of a batch than the SAE itself needs."""

from pathlib import Path

import pytest
import torch

from sae_lens_ext.analysis.stability import firing_counts
from sae_lens_ext.analysis.stability.firing_counts import count_firings
from tests.ops.largest_tensor import LargestTensor
from tests.reliability.load.latents import BATCH, TASKS
from tests.reliability.load.stream_model import random_topk

D_SAE, D_IN = 4096, 32
CHUNK = 24 * 2**20 // 4
"""Cosines that `top_cosines` holds at a time, whatever the number of latents."""
LINEAR = 9 * BATCH // 8
"""Numbers a latent: a batch of 1,024, of an SAE with one residual of an eighth of its latents."""


@pytest.mark.parametrize("task", TASKS)
def test_the_largest_tensor_grows_linearly_with_the_latents(task: str, tmp_path: Path) -> None:
    if "stability" in task or "training topk" in task:  # minutes; the benchmark watches them
        pytest.skip("too slow for this size; benchmarks/reliability_latents.py measures it")
    with LargestTensor() as largest:
        TASKS[task](D_SAE, D_IN, tmp_path)
    assert largest.numel <= max(CHUNK, LINEAR * D_SAE, 2**24 if "firing" in task else 0), largest


def test_firings_of_a_batch_are_counted_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    saes, x = {"sae": random_topk(512, 0, d_in=D_IN, k=8)}, torch.randn(300, D_IN)
    with torch.no_grad():
        expected = count_firings(saes, [x])
        monkeypatch.setattr(firing_counts, "LATENTS_AT_ONCE", 100 * 512)
        with LargestTensor() as largest:
            found = count_firings(saes, [x])
    assert torch.equal(found.fired["sae"], expected.fired["sae"])
    assert found.n_tokens == 300
    assert largest.numel <= 100 * 512, largest

"""The nulls and intervals of persistence, against simulation and loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext import bootstrap
from sae_lens_ext.bootstrap import resamples
from sae_lens_ext.steering.reading.effect.cosine_estimates import cosine_estimates
from sae_lens_ext.steering.reading.effect.direction_sums import (
    DirectionSums,
    cosine_sums,
    null_local,
    null_mean,
)
from tests.steering.reading.effect.toy import cosine

D = 24


def bootstrap_weights(n_rows: int, n_resamples: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(bootstrap.bootstrap_weights(n_rows, n_resamples, seed))


def sums_of(*rows: torch.Tensor) -> DirectionSums:
    """Sums at one block, of sequences [n, d] each."""
    sums = DirectionSums(1, len(rows), rows[0].shape[1])
    for i, row in enumerate(rows):
        sums.add(0, [i], row.double()[None])
    return sums


def drawn(seed: int, *lengths: int, d: int = D, spread: bool = True) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, d, generator=generator, dtype=torch.float64) for n in lengths]
    return [row * torch.rand(len(row), 1, generator=generator).square() for row in rows] if spread else rows


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_sums_agree_with_two_passes(seed: int) -> None:
    rows = drawn(seed, 4, 1, 3)
    local = torch.randn(D, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    found = cosine_sums(sums_of(*rows), local[None])
    mean = torch.cat(rows).mean(dim=0)
    for i, row in enumerate(rows):
        others = torch.cat([other for k, other in enumerate(rows) if k != i]).mean(dim=0)
        assert found.local[0, i] == pytest.approx(sum(cosine(gap, local) for gap in row), abs=1e-9)
        assert found.mean[0, i] == pytest.approx(sum(cosine(gap, mean) for gap in row), abs=1e-9)
        assert found.others[0, i] == pytest.approx(sum(cosine(gap, others) for gap in row), abs=1e-9)


def test_a_token_at_which_nothing_changed_counts_for_no_cosine() -> None:
    row = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    sums = sums_of(row)
    found = cosine_estimates(
        sums,
        3,
        torch.tensor([5.0, 0.0]).double(),
        torch.tensor([[1.0, 0.0]]).double(),
        bootstrap_weights(1, 9, 0),
    )
    assert sums.directed.item() == 2 and found["diff_vector"].item() == pytest.approx(0.6)
    assert found["diff_diff"].item() == pytest.approx(1)
    assert found["norm_ratio"].item() == pytest.approx((5 + 0 + 10) / 3 / 5)
    assert found["diff_diff_others"].isnan().all() and found["diff_vector_interval"].isnan().all()


def test_the_null_of_diff_diff_is_what_random_directions_give() -> None:
    measured, expected = [], []
    for seed in range(60):
        sums = sums_of(*drawn(seed, 10, 20, 15, d=300))
        measured.append(float(cosine_sums(sums, torch.ones(1, 300).double()).mean.sum()) / 45)
        expected.append(float(null_mean(sums)))
    assert np.mean(measured) == pytest.approx(np.mean(expected), rel=0.02)
    assert null_mean(sums_of(torch.eye(D))).item() == pytest.approx(1 / math.sqrt(D))


def test_the_mean_of_other_sequences_has_no_such_bias() -> None:
    measured = []
    for seed in range(60):
        found = cosine_sums(sums_of(*drawn(seed, 10, 20, 15)), torch.ones(1, D).double())
        measured.append(float(found.others.sum()) / 45)
    assert abs(np.mean(measured)) < 3 * np.std(measured) / math.sqrt(60) and abs(np.mean(measured)) < 0.03


def test_the_null_of_diff_vector_is_its_spread_over_random_directions() -> None:
    common = torch.zeros(D).double()
    common[0] = 1.0
    sums = sums_of(*(row + common for row in drawn(0, 30, 20)))
    directions = torch.randn(2_000, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    means = [float(cosine_sums(sums, one[None]).local.sum()) / 50 for one in directions]
    assert null_local(sums).item() == pytest.approx(np.std(means), rel=0.07)
    assert np.mean(means) == pytest.approx(0, abs=0.02)
    assert null_local(sums_of(torch.ones(7, D))).item() == pytest.approx(1 / math.sqrt(D))


def test_intervals_agree_with_a_bootstrap_by_loops() -> None:
    rows = drawn(4, 6, 3, 9, 2, spread=False)
    local = rows[0][0]
    found = cosine_estimates(sums_of(*rows), 20, local, local[None], bootstrap_weights(4, 200, 5))
    mean = torch.cat(rows).mean(dim=0)
    for name, direction in (("diff_vector", local), ("diff_diff", mean)):
        means = [
            np.mean([cosine(gap, direction) for i in chosen for gap in rows[i]])
            for chosen in resamples(4, 200, 5)[1:]
        ]
        expected = np.percentile(means, (2.5, 97.5))
        np.testing.assert_allclose(found[f"{name}_interval"][0].numpy(), expected, atol=1e-9)
        assert found[name].item() == pytest.approx(
            np.mean([cosine(gap, direction) for row in rows for gap in row])
        )


def test_weights_count_the_sequences_of_each_sample() -> None:
    weights = bootstrap_weights(5, 20, 3)
    assert weights.shape == (21, 5) and weights[0].tolist() == [1] * 5 and (weights.sum(dim=1) == 5).all()
    for row, chosen in zip(weights.tolist(), resamples(5, 20, 3), strict=True):
        assert row == [int((chosen == i).sum()) for i in range(5)]


def test_sequences_of_one_prompt_share_a_row_and_are_no_others_to_each_other() -> None:
    generator = torch.Generator().manual_seed(3)
    of_prompts = torch.randn(
        40, 12, 256, generator=generator, dtype=torch.float64
    )  # random directions, d = 256
    sums = DirectionSums(1, 40, 256)
    for _ in range(2):  # each prompt twice, with the very same differences
        sums.add(0, list(range(40)), of_prompts)
    twice = DirectionSums(1, 40, 256)
    twice.add(0, [row for row in range(40) for _ in range(2)], of_prompts.repeat_interleave(2, 0))
    for name in ("units", "vectors", "norms", "squares", "directed"):
        torch.testing.assert_close(getattr(twice, name), getattr(sums, name))
    local = torch.ones(1, 256, dtype=torch.float64)
    found = cosine_estimates(twice, 960, local[0], local, bootstrap_weights(40, 20, 0))
    assert abs(float(found["diff_diff_others"][0])) < 0.01

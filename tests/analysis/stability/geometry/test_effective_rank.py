"""Effective rank and energy, against hand-worked numbers, the definition by `svd`, and what random rows give."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.analysis.stability.geometry.effective_rank import Spectrum, second_moment
from tests.analysis.stability.labelled import random_rows, rotation, unit


def spectrum_of(rows: torch.Tensor) -> Spectrum:
    return Spectrum.of_moment(second_moment(rows))


def effective_rank_by_svd(rows: torch.Tensor) -> float:
    values = torch.linalg.svdvals(rows.double()).tolist()
    entropy = 0.0
    for value in values:
        p = value / sum(values)
        if p > 1e-14:
            entropy -= p * math.log(p)
    return math.exp(entropy)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_effective_rank_of_orthonormal_rows_is_their_number(n: int) -> None:
    rows = rotation(8, seed=0)[:n]
    assert spectrum_of(rows).effective_rank == pytest.approx(n, rel=1e-9)
    assert spectrum_of(rows.repeat(5, 1)).effective_rank == pytest.approx(n, rel=1e-9)


def test_effective_rank_of_identical_and_opposite_rows_is_1() -> None:
    row = random_rows(1, 40, seed=1)
    assert spectrum_of(row.repeat(30, 1)).effective_rank == pytest.approx(1, abs=1e-5)
    assert spectrum_of(torch.cat([row, -row])).effective_rank == pytest.approx(1, abs=1e-5)


def test_effective_rank_by_hand() -> None:
    # Three times e1 and once e2: singular values √3 and 1.
    rows = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [0, 1]])
    p = math.sqrt(3) / (math.sqrt(3) + 1)
    expected = math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p))
    spectrum = spectrum_of(rows)
    assert spectrum.singular_values.tolist() == pytest.approx([math.sqrt(3) / 2, 0.5])
    assert spectrum.effective_rank == pytest.approx(expected)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_effective_rank_of_rows_in_a_subspace_is_at_most_its_dimensions(rank: int) -> None:
    rows = unit(random_rows(60, rank, seed=2) @ random_rows(rank, 24, seed=3))
    assert 0.8 * rank < spectrum_of(rows).effective_rank <= rank + 1e-3


@pytest.mark.parametrize(("n", "er_over_d"), [(500, 0.585), (1000, 0.872)])
def test_effective_rank_of_random_rows_depends_on_their_number(n: int, er_over_d: float) -> None:
    assert spectrum_of(random_rows(n, 768, seed=4)).effective_rank / 768 == pytest.approx(er_over_d, abs=2e-3)


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 10_000))
def test_Spectrum_is_that_of_svd_and_no_rotation_changes_it(n: int, d: int, seed: int) -> None:
    rows = random_rows(n, d, seed).double()
    own, turned = spectrum_of(rows), spectrum_of(rows @ rotation(d, seed + 1))
    expected = torch.zeros(d, dtype=torch.float64)
    expected[: min(n, d)] = torch.linalg.svdvals(rows) / math.sqrt(n)
    torch.testing.assert_close(own.singular_values, expected, rtol=1e-5, atol=1e-7)
    assert own.effective_rank == pytest.approx(effective_rank_by_svd(rows), rel=1e-5)
    assert turned.effective_rank == pytest.approx(own.effective_rank, rel=1e-5)
    assert 1 - 1e-9 <= own.effective_rank <= min(n, d) * (1 + 1e-9)
    torch.testing.assert_close(own.directions @ own.directions.T, torch.eye(d, dtype=torch.float64))


def test_Spectrum_energy_by_hand() -> None:
    rows = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])  # main direction e1, then e2
    others = torch.tensor([[0.6, 0.8, 0], [0, 0.6, 0.8]])
    energy = spectrum_of(rows).energy(second_moment(others), (1, 2, 3))
    assert energy.tolist() == pytest.approx([(0.36 + 0) / 2, (1 + 0.36) / 2, 1])


@settings(max_examples=25)
@given(st.integers(2, 30), st.integers(2, 10), st.integers(0, 10_000))
def test_Spectrum_energy_is_the_projection_row_by_row(n: int, d: int, seed: int) -> None:
    rows, others = random_rows(n, d, seed).double(), random_rows(7, d, seed + 1).double()
    ranks = tuple(range(1, min(n, d) + 1))
    directions = torch.linalg.svd(rows, full_matrices=False)[2]
    slow = [sum(float(u @ directions[i]) ** 2 for u in others for i in range(r)) / len(others) for r in ranks]
    spectrum = spectrum_of(rows)
    found = spectrum.energy(second_moment(others), ranks).tolist()
    assert found == pytest.approx(slow, abs=1e-6)
    assert found == sorted(found) and spectrum.energy(second_moment(others), (d,)).item() == pytest.approx(1)


def test_Spectrum_energy_of_the_mean_moment_is_the_mean_energy() -> None:
    spectrum = spectrum_of(random_rows(20, 6, seed=0))
    parts = [second_moment(random_rows(n, 6, seed=n)) for n in (3, 50)]
    mean = spectrum.energy(torch.stack(parts).mean(dim=0), (1, 2, 4))
    torch.testing.assert_close(mean, sum(spectrum.energy(part, (1, 2, 4)) for part in parts) / 2)

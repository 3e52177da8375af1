"""Matching one to one: the sparse solution has the value of the dense one, whatever the shape, and ties harm nothing."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sae_lens_ext.analysis.matching import assignment as module
from sae_lens_ext.analysis.matching import one_to_one
from sae_lens_ext.analysis.matching.assignment import sparse_assignment
from tests.analysis.matching.test_cosines import random_rows


def sparse(matrix: list[list[float]] | np.ndarray, k: int | None = None) -> list[int]:
    """Assign with the k best columns of each row, by default all."""
    matrix = np.asarray(matrix, dtype=np.float64)
    indices = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
    return sparse_assignment(np.take_along_axis(matrix, indices, axis=1), indices, matrix.shape[1]).tolist()


def worth(matrix: np.ndarray, partners: list[int]) -> float:
    return sum(float(matrix[row, column]) for row, column in enumerate(partners) if column >= 0)


def dense_worth(matrix: np.ndarray) -> float:
    clipped = np.clip(matrix, 0, None)  # no partner is worth 0
    return float(clipped[linear_sum_assignment(clipped, maximize=True)].sum())


def require_one_to_one(partners: list[int], n_columns: int) -> None:
    taken = [column for column in partners if column != -1]
    assert len(set(taken)) == len(taken) and all(0 <= column < n_columns for column in taken)


def test_sparse_assignment_is_the_best_and_not_the_greedy_one() -> None:
    assert sparse([[0.9, 0.8], [0.8, 0.1]]) == [1, 0]  # 1.6, where the greedy one has 1.0
    assert sparse([[0.9, 0.8], [0.8, 0.75]]) == [0, 1]  # 1.65 before 1.6


def test_sparse_assignment_leaves_a_row_alone_rather_than_take_what_is_worth_nothing() -> None:
    assert sparse([[0.5, -0.1], [0.9, -0.2]]) == [-1, 0]
    assert sparse([[-0.5, 0.0], [-0.1, -0.2]]) == [-1, -1]
    assert sparse([[0.5], [0.9], [0.7]]) == [-1, 0, -1]  # more rows than columns
    assert sparse([[0.5, 0.9, 0.7]]) == [1]


def test_sparse_assignment_without_rows_or_candidates_in_common() -> None:
    assert sparse_assignment(np.zeros((0, 3)), np.zeros((0, 3), np.int64), 5).tolist() == []
    assert sparse([[0.9, 0.1, 0.0], [0.0, 0.1, 0.9]], k=1) == [0, 2]


SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
STEPS = st.sampled_from([1, 2, 4, 1000])
"""Values of so many steps: few make many ties."""


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    (n, m), steps = draw(SHAPES), draw(STEPS)
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    matrix = rng.integers(-steps, steps + 1, (n, m)) / steps
    if draw(st.booleans()):  # duplicates and rows of zeros
        matrix[rng.integers(n)] = matrix[rng.integers(n)]
        matrix[rng.integers(n)] = 0
    return matrix


@settings(max_examples=150)
@given(matrix=matrices())
def test_sparse_assignment_of_all_pairs_is_worth_as_much_as_the_dense_one(matrix: np.ndarray) -> None:
    partners = sparse(matrix)
    require_one_to_one(partners, matrix.shape[1])
    assert all(matrix[row, column] > 0 for row, column in enumerate(partners) if column >= 0)
    assert worth(matrix, partners) == pytest.approx(dense_worth(matrix), abs=1e-9)


@settings(max_examples=100)
@given(matrix=matrices(), k=st.integers(1, 4))
def test_sparse_assignment_of_some_pairs_is_the_best_among_these(matrix: np.ndarray, k: int) -> None:
    partners = sparse(matrix, k)
    allowed = np.zeros_like(matrix)
    best = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
    np.put_along_axis(allowed, best, np.take_along_axis(matrix, best, axis=1), axis=1)
    require_one_to_one(partners, matrix.shape[1])
    assert all(column in best[row] for row, column in enumerate(partners) if column >= 0)
    assert worth(allowed, partners) == pytest.approx(dense_worth(allowed), abs=1e-9)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**20), n=st.integers(1, 5), steps=STEPS)
def test_sure_edges_are_in_every_best_assignment(seed: int, n: int, steps: int) -> None:
    matrix = np.random.default_rng(seed).integers(1, steps + 1, (n, n)) / steps
    rows, columns = (grid.ravel() for grid in np.indices((n, n)))
    sure = module._Edges(rows, columns, matrix.ravel()).sure(n, n)
    totals = {order: worth(matrix, list(order)) for order in permutations(range(n))}
    best = [order for order, total in totals.items() if total > max(totals.values()) - 1e-9]
    for row, column in zip(rows[sure], columns[sure], strict=True):
        assert all(order[row] == column for order in best)


def test_one_to_one_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    b = torch.tensor([[0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    # Both rows are most like b's first (0.8 and 0.96); together 0.8 + 0.8 is more than 0.96 + 0.
    assert one_to_one(a, b).tolist() == [0, 1]
    assert one_to_one(b, a).tolist() == [0, 1, -1]
    assert one_to_one(a, b).dtype == torch.int64


@pytest.mark.parametrize(("n", "m"), [(5, 5), (5, 9), (9, 5), (1, 4), (4, 1)])
def test_one_to_one_up_to_2048_rows_is_the_dense_assignment(n: int, m: int) -> None:
    a, b = random_rows(n, 3), random_rows(m, 3, seed=1)
    partners = one_to_one(a, b).tolist()
    require_one_to_one(partners, m)
    assert sum(column >= 0 for column in partners) == min(n, m)  # all that can have one, also a negative one
    matrix = (a @ b.T).double().numpy()
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    assert worth(matrix, partners) == pytest.approx(float(matrix[rows, columns].sum()), abs=1e-6)


def test_one_to_one_beyond_2048_rows_finds_again_what_was_shuffled() -> None:
    a = random_rows(2100, 24)
    order = torch.randperm(2100, generator=torch.Generator().manual_seed(3))
    b = torch.nn.functional.normalize(a[order] + 0.05 * random_rows(2100, 24, seed=2), dim=1)
    assert torch.equal(order[one_to_one(a, b)], torch.arange(2100))


@pytest.mark.parametrize("noise", [0.3, 1.0, 100.0])
@pytest.mark.parametrize(("n", "m"), [(400, 400), (400, 300), (300, 400)])
def test_one_to_one_from_candidates_is_close_to_the_dense_optimum(
    monkeypatch: pytest.MonkeyPatch, noise: float, n: int, m: int
) -> None:
    a = random_rows(n, 24)
    b = torch.nn.functional.normalize(a[torch.arange(m) % n] + noise * random_rows(m, 24, seed=2), dim=1)
    matrix = (a @ b.T).double().numpy()
    monkeypatch.setattr(module, "DENSE_UP_TO", 0)
    partners = one_to_one(a, b).tolist()
    require_one_to_one(partners, m)
    assert worth(matrix, partners) >= 0.97 * dense_worth(matrix)
    fewer = one_to_one(a, b, candidates=2).tolist()
    assert worth(matrix, fewer) <= worth(matrix, partners) + 1e-9
    assert worth(matrix, one_to_one(a, b, candidates=m).tolist()) == pytest.approx(
        dense_worth(matrix), abs=1e-4
    )


def test_one_to_one_from_candidates_leaves_rows_of_zeros_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DENSE_UP_TO", 0)
    a = torch.cat([random_rows(3, 4), torch.zeros(2, 4)])
    partners = one_to_one(a, a.roll(1, dims=0))
    assert partners.tolist() == [1, 2, 3, -1, -1]

"""Matrix entropy: hand-worked numbers, invariances, bounds, and refusals."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.analysis.collapse import matrix_entropy, sequence_entropies
from tests.analysis.collapse.naive import naive_entropy, naive_z_score

ALPHAS = (0.0, 0.5, 1, 2.0, 5, math.inf)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**20))
orders = st.one_of(st.floats(0, 6), st.sampled_from([0.0, 1.0, 200.0, 1e4, math.inf]))


def random_matrix(shape: tuple[int, int, int]) -> torch.Tensor:
    t, d, seed = shape
    return torch.randn(t, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equal_orthogonal_rows_have_the_logarithm_of_their_number(alpha: float) -> None:
    z = 3 * torch.eye(7)[:4]
    assert matrix_entropy(z, alpha=alpha) == pytest.approx(math.log(4), abs=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_rows_on_one_line_have_none(alpha: float) -> None:
    z = torch.tensor([[1.0], [-2.0], [0.5]]) * torch.tensor([[0.3, 0.1, -4.0, 2.0]])
    assert matrix_entropy(z, alpha=alpha) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0, math.log(2)),
        (0.5, 2 * math.log(math.sqrt(0.9) + math.sqrt(0.1))),
        (1, -0.9 * math.log(0.9) - 0.1 * math.log(0.1)),
        (2, -math.log(0.81 + 0.01)),
        (math.inf, -math.log(0.9)),
    ],
)
def test_two_eigenvalues_by_hand(alpha: float, expected: float) -> None:
    z = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])  # λ = 9 and 1 of 10
    assert matrix_entropy(z, alpha=alpha) == pytest.approx(expected, abs=1e-12)


def test_the_order_is_a_half_unless_one_is_given() -> None:
    z = random_matrix((4, 3, 0))
    assert matrix_entropy(z) == matrix_entropy(z, alpha=0.5)


def test_nothing_is_centred() -> None:
    far = torch.eye(3) + 1000.0
    assert matrix_entropy(far) < 0.1 < matrix_entropy(torch.eye(3))


@given(shapes, st.sampled_from([0.3, 0.5, 1, 2.0]))
def test_is_that_of_the_gram_matrix_eigenvalues(shape: tuple[int, int, int], alpha: float) -> None:
    z = random_matrix(shape)
    assert matrix_entropy(z, alpha=alpha) == pytest.approx(
        naive_entropy(z, alpha), abs=1e-4 if alpha < 0.5 else 1e-6
    )


@given(shapes, orders)
def test_lies_between_nothing_and_the_logarithm_of_the_smaller_side(
    shape: tuple[int, int, int], alpha: float
) -> None:
    assert 0 <= matrix_entropy(random_matrix(shape), alpha=alpha) <= math.log(min(shape[:2])) + 1e-9


@given(shapes, orders, st.floats(1e-30, 1e30))
def test_rotation_and_scale_change_nothing(shape: tuple[int, int, int], alpha: float, scale: float) -> None:
    z = random_matrix(shape)
    left, right = (torch.linalg.qr(random_matrix((n, n, shape[2] + 1))).Q for n in shape[:2])
    expected = matrix_entropy(z, alpha=alpha)
    assert matrix_entropy(scale * (left @ z @ right), alpha=alpha) == pytest.approx(expected, abs=1e-7)
    assert matrix_entropy(z.T, alpha=alpha) == pytest.approx(expected, abs=1e-7)


@given(shapes, orders, orders)
def test_falls_as_the_order_grows(shape: tuple[int, int, int], one: float, other: float) -> None:
    z, low, high = random_matrix(shape), min(one, other), max(one, other)
    assert matrix_entropy(z, alpha=low) >= matrix_entropy(z, alpha=high) - 1e-7


@pytest.mark.parametrize("gap", [1e-4, 1e-7, 1e-9, 1e-12])
def test_comes_to_shannons_as_the_order_comes_to_one(gap: float) -> None:
    z = random_matrix((5, 4, 3))
    for alpha in (1 - gap, 1 + gap):
        assert matrix_entropy(z, alpha=alpha) == pytest.approx(matrix_entropy(z, alpha=1), abs=2 * gap + 1e-7)


def test_rounding_is_no_direction() -> None:
    z = random_matrix((6, 2, 1)) @ random_matrix((2, 8, 2))  # rank 2 but for rounding
    assert matrix_entropy(z, alpha=0) == pytest.approx(math.log(2), abs=1e-12)


def test_sizes_that_overflow_or_vanish_when_squared_are_no_matter() -> None:
    z = random_matrix((3, 3, 4))
    assert matrix_entropy(z * 1e200) == pytest.approx(matrix_entropy(z))
    assert matrix_entropy(z * 1e-200) == pytest.approx(matrix_entropy(z))


def test_low_precision_is_computed_in_float64() -> None:
    z = torch.eye(8, dtype=torch.bfloat16)
    assert matrix_entropy(z, alpha=1) == pytest.approx(math.log(8), abs=1e-12)


def test_a_tensor_that_requires_grad_is_read_and_left_alone() -> None:
    z = random_matrix((3, 2, 5)).requires_grad_()
    before = z.detach().clone()
    matrix_entropy(z)
    assert torch.equal(z, before) and z.requires_grad


@pytest.mark.parametrize(
    ("z", "match"),
    [
        (torch.tensor([[1.0, math.nan]]), "NaN or infinity"),
        (torch.tensor([[1.0, math.inf]]), "NaN or infinity"),
        (torch.zeros(3, 2), "zero everywhere"),
        (torch.ones(3), r"shape \(3,\).*\[t, d\]"),
        (torch.ones(2, 3, 4), r"shape \(2, 3, 4\)"),
        (torch.ones(0, 4), r"shape \(0, 4\)"),
        (torch.ones(2, 2, dtype=torch.long), "int64"),
        (torch.ones(2, 2, dtype=torch.bool), "bool"),
        (torch.ones(2, 2, dtype=torch.complex64), "complex64"),
        ([[1.0]], "type list"),
    ],
)
def test_what_is_no_sequence_is_refused(z: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        matrix_entropy(z)


@pytest.mark.parametrize(
    ("alpha", "match"),
    [
        (-0.5, "not negative"),
        (-math.inf, "finite"),
        (math.nan, "finite"),
        (True, "finite"),
        ("1", "finite"),
        (None, "finite"),
    ],
)
def test_what_is_no_order_is_refused(alpha: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        matrix_entropy(torch.eye(2), alpha=alpha)


def test_numpys_numbers_are_orders() -> None:
    assert matrix_entropy(torch.eye(2), alpha=np.float32(2)) == pytest.approx(math.log(2))  # pyright: ignore


def test_sequences_are_z_scored_over_the_data_set() -> None:
    z = torch.randn(5, 4, 3) * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 50.0, -3.0])
    scored = naive_z_score(z)
    found = sequence_entropies(z, alpha=2)
    assert found.dtype == torch.float64 and found.shape == (5,)
    assert found.tolist() == pytest.approx([naive_entropy(one, 2) for one in scored], abs=1e-5)


def test_sequences_are_read_as_they_are_if_z_scoring_is_off() -> None:
    z = torch.randn(5, 4, 3) + 2
    assert sequence_entropies(z, z_score=False).tolist() == pytest.approx([matrix_entropy(one) for one in z])


def test_z_scoring_makes_shift_and_scale_of_a_dimension_no_matter() -> None:
    z = torch.randn(4, 6, 3, dtype=torch.float64)
    other = z * torch.tensor([1.0, -30.0, 0.2]) + torch.tensor([5.0, 1e6, 0.0])
    assert sequence_entropies(other).tolist() == pytest.approx(sequence_entropies(z).tolist(), abs=1e-6)


def test_a_constant_dimension_has_no_part_even_if_its_mean_rounds() -> None:
    z = torch.randn(4, 6, 3)
    with_constant = torch.cat([z, torch.full((4, 6, 1), 0.1)], dim=2)
    assert sequence_entropies(with_constant).tolist() == pytest.approx(
        sequence_entropies(z).tolist(), abs=1e-12
    )


def test_a_data_set_of_constants_is_refused() -> None:
    with pytest.raises(ValueError, match="zero everywhere.*3 of 3.*no dimension ever changes"):
        sequence_entropies(torch.ones(3, 4, 2))


@pytest.mark.parametrize("bad", [torch.ones(3, 4), torch.ones(2, 3, 4, dtype=torch.int32)])
def test_what_is_no_data_set_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[n, t, d\]"):
        sequence_entropies(bad)
    with pytest.raises(ValueError, match="z_score = 1"):
        sequence_entropies(torch.randn(2, 3, 4), z_score=1)  # pyright: ignore

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.vectors.conftest import random_vectors

WIDTH = 3
finite = st.floats(-1e3, 1e3, width=32)


@st.composite
def steering_vectors(draw: Any) -> SteeringVectors:
    by_layer = draw(
        st.dictionaries(
            st.integers(0, 4), st.lists(finite, min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=4
        )
    )
    name = draw(st.sampled_from(["a", "b", None]))
    return SteeringVectors(
        {layer: torch.tensor(row) for layer, row in by_layer.items()},
        {} if name is None else {"made_by": name},
    )


def dense(vectors: SteeringVectors) -> torch.Tensor:
    """[5, WIDTH], float64; absent layers are zero."""
    rows = torch.zeros(5, WIDTH, dtype=torch.float64)
    for layer in vectors:
        rows[layer] = vectors[layer].double()
    return rows


def close(found: SteeringVectors, expected: torch.Tensor) -> None:
    torch.testing.assert_close(dense(found), expected, rtol=1e-5, atol=1e-3)


@settings(max_examples=25)
@given(steering_vectors(), steering_vectors(), steering_vectors(), finite)
def test_it_is_a_vector_space(
    a: SteeringVectors, b: SteeringVectors, c: SteeringVectors, factor: float
) -> None:
    close(a + b, dense(a) + dense(b))
    close(a - b, dense(a) - dense(b))
    close(factor * a, factor * dense(a))
    close(-a, -dense(a))
    close((a + b) + c, dense(a + (b + c)))
    close(factor * (a + b), dense(factor * a + factor * b))
    close(sum([a, b, c]), dense(a) + dense(b) + dense(c))  # type: ignore[arg-type]
    assert torch.equal(dense(a + b), dense(b + a))
    assert torch.equal(dense(a - a), torch.zeros(5, WIDTH, dtype=torch.float64))
    assert (a + b).layers == tuple(sorted({*a, *b}))
    if abs(factor) > 1e-3:
        close(a / factor * factor, dense(a))


@settings(max_examples=25)
@given(steering_vectors(), steering_vectors())
def test_arithmetic_changes_nothing_it_is_given(a: SteeringVectors, b: SteeringVectors) -> None:
    before = dense(a), dense(b), dict(a.provenance), dict(b.provenance)
    _ = a + b, a - b, 2 * a, a / 3, -b
    assert torch.equal(dense(a), before[0]) and torch.equal(dense(b), before[1])
    assert dict(a.provenance) == before[2] and dict(b.provenance) == before[3]


def test_hand_worked() -> None:
    a = SteeringVectors({0: torch.tensor([1.0, 2.0]), 1: torch.tensor([1.0, 0.0])})
    b = SteeringVectors({1: torch.tensor([0.0, 4.0]), 3: torch.tensor([5.0, 5.0])})
    c = a - b / 2
    assert {layer: c[layer].tolist() for layer in c} == {0: [1.0, 2.0], 1: [1.0, -2.0], 3: [-2.5, -2.5]}


def test_factors_may_be_numpys_and_pytorchs() -> None:
    a = SteeringVectors({0: torch.tensor([1.0, 2.0])})
    for two in (2, np.float64(2), np.float32(2), torch.tensor(2.0)):
        assert (a * two)[0].tolist() == [2.0, 4.0]  # type: ignore[operator]
        assert (two * a)[0].tolist() == [2.0, 4.0]  # type: ignore[operator]
        assert (a / two)[0].tolist() == [0.5, 1.0]  # type: ignore[operator]


def test_a_result_names_what_it_was_made_of_term_by_term() -> None:
    a = SteeringVectors(random_vectors(0), {"made_by": "training", "seed": 1})
    b = SteeringVectors(random_vectors(0), {"made_by": "training", "seed": 2})
    assert (0.5 * (a - b)).provenance == {
        "made_by": "linear combination",
        "terms": [
            {"factor": 0.5, "of": {"made_by": "training", "seed": 1}},
            {"factor": -0.5, "of": {"made_by": "training", "seed": 2}},
        ],
    }


def test_terms_of_equal_provenance_are_one_so_that_loops_stay_short() -> None:
    a = SteeringVectors(random_vectors(0, scale=1e-9), {"seed": 1})
    b = a
    for _ in range(40):
        b = b + a / 2
        b = b + b
        b = b / 2
    assert b.provenance["terms"] == [{"factor": 21.0, "of": {"seed": 1}}]


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda a: a * float("nan"), ValueError, "a factor = nan"),
        (lambda a: a * "2", ValueError, "a factor = '2'"),
        (lambda a: a * True, ValueError, "a factor = True"),
        (lambda a: a / 0, ValueError, "divided by 0"),
        (lambda a: a * 1e39, ValueError, "the vector of layer 0 with NaN or infinity"),
        (lambda a: a + SteeringVectors({0: torch.ones(3)}), ValueError, "widths 2 and 3 cannot be added"),
        (lambda a: a + 1, TypeError, "unsupported operand"),
        (lambda a: 1 - a, TypeError, "unsupported operand"),
        (lambda a: a * a, TypeError, "unsupported operand"),
        (lambda a: a / a, TypeError, "unsupported operand"),
    ],
)
def test_what_is_no_number_or_does_not_fit_is_refused(operation: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        operation(SteeringVectors({0: torch.tensor([1.0, 2.0])}))

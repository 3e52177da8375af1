"""Coherence, score and their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sae_lens_ext.bootstrap import estimate, resamples
from sae_lens_ext.steering.dose_response.estimates import distinct_share, dose_estimates


def measured(
    behaviour: list[float], cross_entropy: list[float], distinct: list[float]
) -> dict[str, np.ndarray]:
    return {
        "behaviour": np.array(behaviour),
        "cross_entropy": np.array(cross_entropy),
        "distinct_bigrams": np.array(distinct),
    }


def test_coherence_and_score_worked_by_hand() -> None:
    samples = resamples(2, 10, 0)
    own = measured([0.0, 0.0], [2.0, 4.0], [1.0, 0.8])
    found = dose_estimates(measured([0.2, 0.6], [3.0, 5.0], [1.0, 0.5]), own, "activate", samples)
    assert found["behaviour"].value == pytest.approx(0.4)
    coherence = math.exp(-1) * 0.75 / 0.9  # CE 4 against 3, D 0.75 against 0.9
    assert found["coherence"].value == pytest.approx(coherence)
    assert found["score"].value == pytest.approx(0.4 * coherence)
    assert found["distinct_bigrams"].value == 0.75
    suppressed = dose_estimates(measured([0.2, 0.6], [3.0, 5.0], [1.0, 0.5]), own, "suppress", samples)
    assert suppressed["score"].value == pytest.approx(0.6 * coherence)


def test_text_likelier_and_more_varied_than_the_models_own_is_as_coherent_as_it() -> None:
    own = measured([0.0], [2.0], [0.5])
    found = dose_estimates(measured([1.0], [0.5], [0.9]), own, "activate", resamples(1, 10, 0))
    assert found["coherence"].value == 1 and found["score"].value == 1


def test_one_word_again_and_again_is_likely_and_not_coherent() -> None:
    own = measured([0.0], [3.0], [1.0])
    found = dose_estimates(measured([1.0], [1.6], [0.03]), own, "activate", resamples(1, 10, 0))
    assert found["coherence"].value == pytest.approx(0.03)


numbers = arrays(np.float64, 5, elements=st.floats(0, 1))


@given(numbers, numbers, numbers, st.sampled_from(["activate", "suppress"]))
def test_every_number_and_interval_is_within_bounds(
    b: np.ndarray, ce: np.ndarray, ce_0: np.ndarray, mode: str
) -> None:
    found = dose_estimates(
        {"behaviour": b, "cross_entropy": 5 * ce, "distinct_bigrams": b},
        {"cross_entropy": 5 * ce_0, "distinct_bigrams": ce_0},
        mode,
        resamples(5, 50, 1),
    )
    for name in ("behaviour", "coherence", "score", "distinct_bigrams"):
        one = found[name]
        assert one.low is not None and one.high is not None
        assert -1e-12 <= one.low <= one.high <= 1 + 1e-12 and 0 <= one.value <= 1 + 1e-12
    assert found["score"].value <= found["coherence"].value + 1e-12
    itself = {"behaviour": b, "cross_entropy": ce, "distinct_bigrams": b + 0.1}
    own = dose_estimates(itself, itself, mode, resamples(5, 50, 1))
    assert (own["coherence"].value, own["coherence"].low, own["coherence"].high) == (1, 1, 1)


def test_intervals_of_means_agree_with_the_normal_ones() -> None:
    values = np.random.default_rng(0).normal(size=400)
    samples = resamples(400, 4_000, 3)
    one = estimate(values[samples].mean(axis=1), 400)
    half = 1.96 * values.std() / math.sqrt(400)
    assert one.low == pytest.approx(values.mean() - half, abs=0.01)
    assert one.high == pytest.approx(values.mean() + half, abs=0.01)
    assert one.value == pytest.approx(values.mean())


def test_one_prompt_has_no_interval() -> None:
    one = estimate(np.full(11, 0.25), 1)
    assert (one.value, one.low, one.high) == (0.25, None, None) and str(one) == "0.250"
    assert str(estimate(np.array([0.5, 0.25, 0.75]), 2)) == "0.500 (0.263 to 0.738)"


def test_resamples_begin_with_the_things_themselves_and_come_again() -> None:
    samples = resamples(4, 6, 9)
    assert samples.shape == (7, 4) and samples[0].tolist() == [0, 1, 2, 3]
    assert np.array_equal(samples, resamples(4, 6, 9)) and not np.array_equal(samples, resamples(4, 6, 8))


@pytest.mark.parametrize(
    ("tokens", "share"),
    [([], 1), ([5], 1), ([5, 5], 1), ([5, 5, 5], 0.5), ([1, 2, 1, 2, 1], 0.5), ([1, 2, 3], 1)],
)
def test_distinct_share_counts_pairs(tokens: list[int], share: float) -> None:
    assert distinct_share(tokens) == share

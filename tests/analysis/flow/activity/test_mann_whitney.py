"""compare_groups against counting pairs and enumerating splits; and what a null and a planted model give."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.analysis.flow.activity import PredecessorActivity, predecessor_activity
from sae_lens_ext.analysis.flow.activity.mann_whitney import compare_groups
from tests.analysis.flow.activity.planted import HALF, planted_saes
from tests.analysis.flow.top_activations.tiny import documents, random_saes

VALUES = st.lists(st.integers(0, 5), min_size=1, max_size=8)
FAST = {"context_size": 12, "n_null": 64, "show_progress": False}


@given(first=VALUES, second=VALUES)
def test_auc_and_effect_are_counted_pairs(first: list[int], second: list[int]) -> None:
    (found,) = compare_groups({"x": np.array(first, float), "y": np.array(second, float)}, min_group=1)

    wins = [(x > y) + 0.5 * (x == y) for x in first for y in second]
    assert found["u"] == pytest.approx(sum(wins))
    assert found["auc"] == pytest.approx(np.mean(wins))
    assert found["effect"] == pytest.approx(2 * np.mean(wins) - 1)
    assert 0 <= found["p"] <= 1


def test_p_is_the_share_of_splits_that_are_as_far_from_chance() -> None:
    rng = np.random.default_rng(0)
    values = rng.permutation(9).astype(float)
    (found,) = compare_groups({"x": values[:4], "y": values[4:]}, min_group=1)

    def distance(chosen: tuple[int, ...]) -> float:
        others = [v for i, v in enumerate(values) if i not in chosen]
        return abs(sum(values[i] > v for i in chosen for v in others) - 10)

    mine = distance((0, 1, 2, 3))
    far = [distance(chosen) >= mine for chosen in itertools.combinations(range(9), 4)]
    assert found["p"] == pytest.approx(np.mean(far))


def test_small_groups_are_not_tested_and_equal_values_say_nothing() -> None:
    values = {"x": np.zeros(3), "y": np.ones(4), "z": np.ones(4)}
    (found,) = compare_groups(values, min_group=4)
    assert (found["group_1"], found["group_2"], found["p"], found["effect"]) == ("y", "z", 1.0, 0.0)


def test_planted_scores_differ_as_far_as_can_be(hooked_model: Any) -> None:
    found = predecessor_activity(hooked_model, planted_saes(), documents(8), thresholds=HALF, **FAST)
    tests = found.tests().set_index(["score", "group_1", "group_2"])

    row = tests.loc["residual", "R", "M"]
    assert (row["auc"], row["effect"]) == (1.0, 1.0)
    assert row["p"] < 1e-3
    assert tests.loc["residual", "R", "R&A"]["effect"] == 0.0  # both have s(R) = 1
    assert tests.loc["residual", "M", "R&A"]["effect"] == -1.0
    # Of its two features one has s(R) = 0.25, the other no match, which counts as 0.
    assert tests.loc["residual", "from nowhere", "M"]["effect"] == -0.5
    assert found.tests("feature").empty  # one feature in each group
    assert found.significant("feature").empty
    shares = found.significant().set_index(["score", "group_1", "group_2"])["share"]
    assert shares["mlp", "M", "A"] == 1.0
    assert shares["mlp", "R", "A"] == 0.0


@pytest.fixture
def unrelated(hooked_model: Any) -> PredecessorActivity:
    """Decoders that have nothing to do with what is active."""
    hooks = [f"blocks.{i}.hook_{what}" for i in (0, 1) for what in ("resid_post", "mlp_out", "attn_out")]
    saes = random_saes(hooks, d_sae=300)
    return predecessor_activity(hooked_model, saes, documents(40), thresholds=HALF, **FAST)


def test_unrelated_features_give_hardly_a_significant_test(unrelated: PredecessorActivity) -> None:
    tests = unrelated.tests("feature")
    assert len(tests) > 80
    assert (tests["p"] < 0.001).mean() < 0.03


def test_occurrences_of_one_feature_are_not_independent(unrelated: PredecessorActivity) -> None:
    """What the class says of the paper's unit: chance alone comes out significant."""
    assert (unrelated.tests("occurrence")["p"] < 0.001).mean() > 0.1


def test_a_level_and_a_unit_must_be_one(hooked_model: Any) -> None:
    found = predecessor_activity(hooked_model, planted_saes(), documents(2), **FAST)
    with pytest.raises(ValueError, match=r"alpha = 5\. Give a level between 0 and 1"):
        found.significant(alpha=5)
    with pytest.raises(ValueError, match="no unit 'token'"):
        found.tests("token")  # type: ignore[arg-type]

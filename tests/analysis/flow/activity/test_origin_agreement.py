"""origin_agreement by hand, against a slow bootstrap, and at chance where nothing is related."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_ext.analysis.flow.activity import (
    OriginAgreement,
    PredecessorActivity,
    origin_agreement,
    predecessor_activity,
)
from sae_lens_ext.analysis.flow.activity.kappa import cohens_kappa, kappa_with_all, shuffled_confusions
from sae_lens_ext.analysis.flow.origins import ORIGINS
from sae_lens_ext.analysis.flow.thresholds import FlowThresholds
from tests.analysis.flow.activity.planted import HALF, planted_saes
from tests.analysis.flow.top_activations.tiny import documents, random_saes

FAST = {"context_size": 12, "n_null": 64, "show_progress": False}
HOOKS = [f"blocks.{i}.hook_{what}" for i in (0, 1) for what in ("resid_post", "mlp_out", "attn_out")]


@pytest.fixture
def unrelated(hooked_model: Any) -> PredecessorActivity:
    texts = {"a": documents(25, seed=1), "b": documents(15, seed=2)}
    limits = FlowThresholds(residual=0.75, mlp=0.75, attention=0.75)
    return predecessor_activity(hooked_model, random_saes(HOOKS, d_sae=100), texts, thresholds=limits, **FAST)


def test_planted_predecessors_agree_in_full(hooked_model: Any) -> None:
    activity = predecessor_activity(hooked_model, planted_saes(), documents(8), thresholds=HALF, **FAST)
    found = origin_agreement(activity, n_resamples=50)

    n = activity.n_tokens
    # 1: translated; 3, 5, 7: processed; 2, 4, 6: newborn; 0 and the one without a predecessor: unexplained.
    assert found.table(1).to_numpy().tolist() == np.diag([n, 3 * n, 3 * n, 2 * n]).tolist()
    assert found.agreement.tolist() == found.kappa.tolist() == [1.0, 1.0]
    assert found.kappa_interval.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert found.p.max().item() < 0.01  # nine features, of which 9! / (3! 3! 2!) orders differ


def test_scores_that_do_not_tell_agree_as_counted_by_hand(hooked_model: Any) -> None:
    activity = predecessor_activity(hooked_model, planted_saes(), documents(8), thresholds=HALF, **FAST)
    found = origin_agreement(activity.with_thresholds(None), n_resamples=50)

    # All eight with a positive score are processed; three of them are by activity, and the ninth is unexplained by both.
    assert found.agreement[0].item() == pytest.approx(4 / 9)
    assert found.chance[0].item() == pytest.approx(8 / 9 * 3 / 9 + 1 / 9 * 2 / 9)
    assert found.kappa[0].item() == pytest.approx(10 / 55)
    assert found.kappa_interval[0].tolist() == pytest.approx([10 / 55] * 2)


def test_unrelated_features_agree_as_by_chance(unrelated: PredecessorActivity) -> None:
    found = origin_agreement(unrelated, n_resamples=20, n_shuffles=200)

    assert found.kappa.abs().max().item() < 0.12
    assert found.p.min().item() > 0.02
    assert (found.chance_interval[:, 0] < 0).all()
    assert (found.chance_interval[:, 1] > 0).all()
    assert 0.1 < found.chance[-1].item() < 0.9


def test_layers_that_differ_in_their_origins_do_not_agree_for_that() -> None:
    """Each layer is at chance; one table of both would have a kappa of 0.6."""
    layers = np.array([[[4, 4, 0], [4, 4, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 0, 16]]])
    agreement, chance, kappa = kappa_with_all(layers)

    assert agreement.tolist() == [0.5, 1.0, 0.75]
    assert chance.tolist() == [0.5, 1.0, 0.75]
    assert kappa[[0, 2]].tolist() == [0.0, 0.0]
    assert np.isnan(kappa[1])
    assert cohens_kappa(layers.sum(axis=0))[2] == pytest.approx(0.6)


def test_kappa_over_all_leaves_out_layers_without_an_occurrence() -> None:
    layers = np.array([[[20, 5], [10, 15]], [[0, 0], [0, 0]]])
    assert [values[-1] for values in kappa_with_all(layers)] == pytest.approx([0.7, 0.5, 0.4])


def test_shuffling_moves_labels_with_all_that_an_item_counts() -> None:
    labels, counts = np.array([0, 1, 1]), np.array([[5, 0], [0, 7], [0, 0]])  # the third is never rated
    tables = shuffled_confusions(labels, counts, 200, np.random.default_rng(0)).tolist()

    both = [[[5.0, 0.0], [0.0, 7.0]], [[0.0, 7.0], [5.0, 0.0]]]
    assert all(table in both for table in tables)
    assert 60 < tables.count(both[0]) < 140


def test_the_confusion_is_counted_occurrence_by_occurrence(unrelated: PredecessorActivity) -> None:
    found = origin_agreement(unrelated, n_resamples=2, n_shuffles=2)
    frame = unrelated.to_frame()
    by_activity = {
        "from nowhere": "unexplained",
        "R": "translated",
        "M": "newborn",
        "A": "newborn",
        "M&A": "newborn",
    }
    for layer in (0, 1):
        expected = np.zeros((4, 4), dtype=int)
        for row in frame[frame["layer"] == layer].itertuples():
            expected[ORIGINS.index(row.origin), ORIGINS.index(by_activity.get(row.group, "processed"))] += 1
        assert found.table(layer).to_numpy().tolist() == expected.tolist()
    assert torch.equal(found.confusion[-1], found.confusion[:-1].sum(dim=0))
    assert found.table().to_numpy().tolist() == found.confusion[-1].tolist()


def test_the_interval_is_that_of_resampled_samples(unrelated: PredecessorActivity) -> None:
    found = origin_agreement(unrelated, n_resamples=2000, n_shuffles=2, seed=1)
    frame = unrelated.to_frame()
    agrees = {"R": "translated", "from nowhere": "unexplained"}
    agrees |= dict.fromkeys(["M", "A", "M&A"], "newborn") | dict.fromkeys(
        ["R&M", "R&A", "R&M&A"], "processed"
    )
    frame["same"] = [agrees[g] == o for g, o in zip(frame["group"], frame["origin"], strict=True)]
    per_sample = frame.groupby("sample")["same"].agg(["sum", "size"])
    n_a = unrelated.text_sizes["a"]
    texts = [per_sample[per_sample.index < n_a].to_numpy(), per_sample[per_sample.index >= n_a].to_numpy()]
    rng = np.random.default_rng(7)
    drawn = []
    for _ in range(2000):
        rows = np.concatenate([part[rng.integers(len(part), size=len(part))] for part in texts]).sum(axis=0)
        drawn.append(rows[0] / rows[1])
    slow = np.quantile(drawn, [0.025, 0.975])
    assert found.agreement_interval[-1].tolist() == pytest.approx(
        slow.tolist(), abs=0.1 * (slow[1] - slow[0])
    )
    low, high = found.agreement_interval[-1].tolist()
    assert low < found.agreement[-1].item() < high


def test_kappa_of_a_textbook_table() -> None:
    agreement, chance, kappa = cohens_kappa(np.array([[20, 5], [10, 15]]))
    assert (float(agreement), float(chance), float(kappa)) == pytest.approx((0.7, 0.5, 0.4))


def test_kappa_is_undefined_where_there_is_one_class_or_nothing() -> None:
    assert np.isnan(cohens_kappa(np.array([[5, 0], [0, 0]]))[2])
    assert np.isnan(cohens_kappa(np.zeros((2, 2)))[0])


def test_the_seed_decides(unrelated: PredecessorActivity) -> None:
    one, same, other = (origin_agreement(unrelated, n_resamples=50, seed=s).kappa_interval for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_results_are_saved_shown_and_drawn(unrelated: PredecessorActivity, tmp_path: Path) -> None:
    found = origin_agreement(unrelated, n_resamples=20, n_shuffles=20)
    found.save(tmp_path / "agreement.json")
    again = OriginAgreement.load(tmp_path / "agreement.json")

    assert again.to_frame().equals(found.to_frame())
    assert again.provenance == found.provenance
    assert list(found.to_frame()["layer"]) == [0, 1, "all"]
    assert len(repr(found).splitlines()) == 3
    assert "<table" in found._repr_html_()
    assert [trace.name for trace in found.plot().data][2:] == ["chance", "95% of shuffled origins"]


def test_an_activity_is_saved_shown_and_drawn(unrelated: PredecessorActivity, tmp_path: Path) -> None:
    unrelated.save(tmp_path / "activity.json")
    again = PredecessorActivity.load(tmp_path / "activity.json")

    assert again.to_frame().equals(unrelated.to_frame())
    assert (again.provenance, again.missing, again.n_tokens) == (
        unrelated.provenance,
        unrelated.missing,
        unrelated.n_tokens,
    )
    assert (
        origin_agreement(again, n_resamples=5, n_shuffles=5)
        .to_frame()
        .equals(origin_agreement(unrelated, n_resamples=5, n_shuffles=5).to_frame())
    )
    assert len(repr(unrelated).splitlines()) == 3
    assert "<table" in unrelated._repr_html_()
    shares = unrelated.plot()
    assert np.sum([trace.y for trace in shares.data], axis=0).tolist() == pytest.approx([1.0, 1.0])
    assert [trace.type for trace in unrelated.plot_tests().data] == ["heatmap"] * 3


def test_numbers_out_of_range_are_refused(unrelated: PredecessorActivity) -> None:
    with pytest.raises(ValueError, match="n_resamples"):
        origin_agreement(unrelated, n_resamples=0)
    with pytest.raises(ValueError, match="n_shuffles"):
        origin_agreement(unrelated, n_shuffles=0)
    with pytest.raises(ValueError, match="confidence = 95"):
        origin_agreement(unrelated, confidence=95)
    with pytest.raises(ValueError, match="There is no layer 7"):
        origin_agreement(unrelated, n_resamples=2, n_shuffles=2).table(7)

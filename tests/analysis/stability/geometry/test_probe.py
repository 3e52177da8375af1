"""Probes of instability: hand-worked scores, seeds where it can be read off and where it cannot, and the shuffled control."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.analysis.stability.geometry.logistic import fit_logistic
from sae_lens_ext.analysis.stability.geometry.probe import (
    _auc,
    _folds,
    _learn_held_out,
    _nearest,
    stability_probe,
)
from sae_lens_ext.analysis.stability.geometry.probe_result import MEASURES, ProbeScore, StabilityProbe
from tests.analysis.stability.labelled import report_of, rotation, sae_of, unit

D = 48


def seeds(
    shift: float,
    n_unstable: tuple[int, ...] = (40, 60, 50),
    n_stable: int = 50,
    d: int = D,
    cosine: float = 0.85,
) -> Any:
    """Rows and labels of seeds that are what the labels say: stable rows are near-copies of each other, about `cosine` apart, and
    unstable ones each seed's own. Unstable features are moved along the first axis, stable ones against it."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n_stable, d, generator=generator)
    features[:, 0] -= shift
    rows, labels = [], []
    for n in n_unstable:
        own = torch.randn(n + 2, d, generator=generator)
        own[:n, 0] += shift
        noise = unit(torch.randn(n_stable, d, generator=generator))
        copies = math.sqrt(cosine) * unit(features) + math.sqrt(1 - cosine) * noise
        rows.append(unit(torch.cat([own[:n], copies, own[n:]])))
        labels.append(["unstable"] * n + ["stable"] * n_stable + ["middle", "excluded"])
    return rows, labels


def probed(rows: list[torch.Tensor], labels: list[list[str]], **arguments: Any) -> StabilityProbe:
    saes = [sae_of(own) for own in rows]
    return stability_probe(saes, report_of(labels, saes), show_progress=False, **arguments)


def test_ProbeScore_by_hand() -> None:
    score = ProbeScore(
        0, 1, None, True, true_positives=6, false_positives=3, false_negatives=2, true_negatives=9, auc=0.8
    )
    assert (score.n_unstable, score.n_stable) == (8, 12)
    assert score.precision == pytest.approx(6 / 9) and score.recall == 0.75
    assert score.f1 == pytest.approx(12 / 17)
    assert score.f1 == pytest.approx(2 / (1 / score.precision + 1 / score.recall))
    assert score.accuracy == 0.75
    assert score.always_unstable_f1 == pytest.approx(16 / 28)
    # With 24 of each: 18 of the unstable, and 6 of the stable, are called unstable.
    assert score.balanced_f1 == pytest.approx(2 * 18 / (2 * 18 + 6 + 6))


def test_ProbeScore_of_trivial_answers() -> None:
    always = ProbeScore(
        0, 1, None, True, true_positives=30, false_positives=10, false_negatives=0, true_negatives=0, auc=0.5
    )
    assert always.f1 == always.always_unstable_f1 == pytest.approx(60 / 70)
    assert always.balanced_f1 == pytest.approx(2 / 3)
    never = ProbeScore(
        0, 1, None, True, true_positives=0, false_positives=0, false_negatives=30, true_negatives=10, auc=0.5
    )
    assert (never.f1, never.recall, never.balanced_f1, never.accuracy) == (0, 0, 0, 0.25)
    assert math.isnan(never.precision)
    coin = ProbeScore(
        0, 1, None, True, true_positives=15, false_positives=5, false_negatives=15, true_negatives=5, auc=0.5
    )
    assert coin.balanced_f1 == 0.5
    perfect = ProbeScore(
        0, 1, None, True, true_positives=30, false_positives=0, false_negatives=0, true_negatives=10, auc=1
    )
    assert perfect.f1 == perfect.balanced_f1 == perfect.precision == 1


def test_ProbeScore_balanced_f1_is_what_balanced_subsets_tend_to() -> None:
    score = ProbeScore(
        0,
        1,
        None,
        True,
        true_positives=150,
        false_positives=30,
        false_negatives=50,
        true_negatives=70,
        auc=0.8,
    )
    called_unstable = np.array([True] * 150 + [False] * 50)
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        recalled = int(generator.choice(called_unstable, 100, replace=False).sum())
        drawn.append(2 * recalled / (2 * recalled + 30 + 100 - recalled))
    assert score.balanced_f1 == pytest.approx(np.mean(drawn), abs=1e-3)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=20))
def test_auc_is_the_share_of_pairs_in_order(samples: list[tuple[int, bool]]) -> None:
    above = [z for z, positive in samples if positive]
    below = [z for z, positive in samples if not positive]
    if not above or not below:
        return
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in above for b in below]
    logits, positive = np.array([float(z) for z, _ in samples]), np.array([p for _, p in samples])
    assert _auc(logits, positive) == pytest.approx(sum(pairs) / len(pairs))


def test_stability_probe_finds_what_seeds_have_in_common() -> None:
    probe = probed(*seeds(shift=3.0))
    for kind in ("others", "others_seen", "own"):
        assert probe.measure("f1", kind)[0] > 0.97 and probe.measure("auc", kind)[0] > 0.99
    assert 0.2 < probe.measure("balanced_f1", "shuffled")[0] < 0.7
    assert 0.2 < probe.measure("auc", "shuffled")[0] < 0.8
    # The plane is across the first axis, and its logits are those of the scores.
    assert (probe.weights[:, 0] > 0).all() and (
        probe.weights[:, 0].abs() > 3 * probe.weights[:, 1:].abs().amax(dim=1)
    ).all()
    rows, labels = seeds(shift=3.0)
    called = rows[1].double() @ probe.weights[0] + probe.biases[0] > 0
    score = next(s for s in probe.scores if (s.trained_on, s.tested_on, s.kind) == (0, 1, "others_seen"))
    unstable = torch.tensor([label == "unstable" for label in labels[1]])
    assert int((called & unstable).sum()) == score.true_positives


def test_stability_probe_reads_unit_rows_times_the_root_of_their_width() -> None:
    rows, labels = seeds(shift=0.5)
    probe = probed(rows, labels, l2=0.3, n_shuffles=1)
    told = [i for i, label in enumerate(labels[0]) if label in ("unstable", "stable")]
    y = np.array([float(labels[0][i] == "unstable") for i in told])
    own = rows[0][told].double().numpy()
    expected = fit_logistic(own * math.sqrt(D), y, l2=0.3)
    logits = own @ probe.weights[0].numpy() + float(probe.biases[0])
    assert logits == pytest.approx(expected.logits(own * math.sqrt(D)), abs=1e-3)


@pytest.mark.parametrize("shift", [0.0, 0.7, 3.0])
def test_the_seeds_are_what_their_labels_say(shift: float) -> None:
    rows, labels = seeds(shift)
    for i, own in enumerate(rows):
        for j, other in enumerate(rows):
            if i != j:
                largest = (own @ other.T).amax(dim=1)
                assert (largest[torch.tensor([label == "stable" for label in labels[i]])] >= 0.7).all()
                assert (largest[torch.tensor([label == "unstable" for label in labels[i]])] < 0.7).all()


def test_stability_probe_is_at_chance_where_nothing_but_near_copies_tells_classes_apart() -> None:
    probe = probed(*seeds(0.0, n_unstable=(270,) * 3, n_stable=200, d=384, cosine=0.8), n_shuffles=3)
    for kind in ("others", "shuffled"):
        assert probe.measure("auc", kind)[0] == pytest.approx(0.5, abs=0.05)
        assert probe.measure("balanced_f1", kind)[0] == pytest.approx(0.5, abs=0.06)
    assert probe.measure("auc", "others_seen")[0] > 0.7  # it knows the stable rows by heart
    assert probe.measure("auc", "own")[0] > 0.95
    assert probe.measure("always_unstable_f1")[0] == pytest.approx(2 * 270 / (2 * 270 + 200))


def test_held_out_probes_have_not_seen_the_fold_of_the_nearest_latent() -> None:
    rows, _ = seeds(0.5)
    x, other = (own[:90].double().numpy() * math.sqrt(D) for own in rows[:2])
    y = np.array([1.0] * 40 + [0.0] * 50)
    fold = _folds(y, 4, torch.Generator().manual_seed(0))
    found = _learn_held_out(x, y, fold, 0.3).logits(other, _nearest(other, x))
    for i in range(0, 90, 7):
        closest = max(range(90), key=lambda k: float(other[i] @ x[k]))
        kept = [k for k in range(90) if fold[k] != fold[closest]]
        assert found[i] == pytest.approx(float(fit_logistic(x[kept], y[kept], l2=0.3).logits(other[i])))


@settings(max_examples=20)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(2, 7), st.integers(0, 99))
def test_folds_share_out_both_classes_evenly(n_unstable: int, n_stable: int, n_folds: int, seed: int) -> None:
    y = np.array([1.0] * n_unstable + [0.0] * n_stable)
    fold = _folds(y, n_folds, torch.Generator().manual_seed(seed))
    for members in (fold[:n_unstable], fold[n_unstable:]):
        sizes = np.bincount(members, minlength=n_folds)
        assert len(sizes) == n_folds and sizes.max() - sizes.min() <= 1


def test_stability_probe_of_few_latents_has_fewer_folds_and_says_so() -> None:
    probe = probed(*seeds(1.0, n_unstable=(3, 60, 50)), n_shuffles=1)
    assert probe.notes == ("'sae_0' has 3 latents of its smaller class and is split into 3 folds, not 5",)
    assert repr(probe).endswith(f" · {probe.notes[0]}")


@pytest.mark.parametrize(
    ("n_folds", "message"),
    [
        (1, r"given n_folds = 1, which leaves a probe nothing to learn from .* Give at least 2, such as 5."),
        (0, r"stability_probe.n_folds = 0 is out of range"),
        (2.0, r"stability_probe.n_folds must be a whole number, but 2.0 was given"),
        (True, r"stability_probe.n_folds must be a whole number, but True was given"),
    ],
)
def test_stability_probe_refuses_folds_that_hold_nothing_out(n_folds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probed(*seeds(1.0), n_folds=n_folds)


def test_stability_probe_scores_every_ordered_pair_and_shuffle() -> None:
    probe = probed(*seeds(shift=1.0), n_shuffles=2)
    frame = probe.to_frame()
    assert list(frame.columns) == [
        "trained_on",
        "tested_on",
        "kind",
        "shuffle",
        "n_unstable",
        "n_stable",
        *MEASURES,
    ]
    assert frame.groupby("kind").size().to_dict() == {
        "others": 6,
        "others_seen": 6,
        "own": 3,
        "shuffled": 12,
    }
    others = frame[frame.kind == "others"]
    assert {(a, b) for a, b in zip(others.trained_on, others.tested_on, strict=True)} == {
        (f"sae_{i}", f"sae_{j}") for i in range(3) for j in range(3) if i != j
    }
    assert frame.groupby("tested_on")[["n_unstable", "n_stable"]].first().to_numpy().tolist() == [
        [40, 50],
        [60, 50],
        [50, 50],
    ]
    by_anchor = others.groupby("trained_on")["f1"].mean()
    assert probe.measure("f1") == pytest.approx((by_anchor.mean(), by_anchor.std()))
    shuffled = frame[frame.kind == "shuffled"].groupby("trained_on")["auc"].mean()
    assert probe.measure("auc", "shuffled") == pytest.approx((shuffled.mean(), shuffled.std()))
    summary = probe.summary().set_index("measure")
    assert summary.loc["f1", ["others", "others_sd"]].tolist() == pytest.approx(list(probe.measure("f1")))


@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_stability_probe_is_the_same_in_any_basis_and_order_of_latents(seed: int) -> None:
    rows, labels = seeds(shift=0.7)
    Q = rotation(D, seed).float()
    one, turned = probed(rows, labels, n_shuffles=1), probed([own @ Q for own in rows], labels, n_shuffles=1)
    torch.testing.assert_close(one.weights @ Q.double(), turned.weights, atol=1e-2, rtol=1e-3)
    for a, b in zip(one.scores, turned.scores, strict=True):
        assert a.auc == pytest.approx(b.auc, abs=2e-3) and a.f1 == pytest.approx(b.f1, abs=0.02)
    order = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(seed))
    moved = probed([rows[0][order], *rows[1:]], [[labels[0][i] for i in order], *labels[1:]], n_shuffles=1)
    torch.testing.assert_close(one.weights, moved.weights, atol=1e-2, rtol=1e-3)


def test_stability_probe_is_decided_by_its_seed_and_leaves_torchs_alone() -> None:
    rows, labels = seeds(shift=0.5)
    saes = [sae_of(own) for own in rows]
    report = report_of(labels, saes)
    state = torch.get_rng_state()
    one, two, other = (
        stability_probe(saes, report, n_shuffles=1, seed=s, show_progress=False) for s in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert one.scores == two.scores != other.scores
    assert [s for s in one.scores if not s.held_out] == [s for s in other.scores if not s.held_out]
    assert [one.provenance[name] for name in ("seed", "l2", "n_folds", "n_shuffles")] == [3, 0.1, 5, 1]
    assert one.provenance["stability_seed"] == 7


@pytest.mark.parametrize("l2", [0, -1.0, math.nan, math.inf, "0.1", True, None])
def test_stability_probe_refuses_a_penalty_that_is_none(l2: Any) -> None:
    with pytest.raises(
        ValueError, match=r"given l2 = .*. Give a number above 0, such as 0.1: without a penalty"
    ):
        probed(*seeds(1.0), l2=l2)


def test_stability_probe_refuses_what_it_cannot_compare() -> None:
    rows, labels = seeds(1.0)
    with pytest.raises(ValueError, match=r"stability_probe.n_shuffles = 0 is out of range"):
        probed(rows, labels, n_shuffles=0)
    labels[2] = ["stable" if label == "unstable" else label for label in labels[2]]
    with pytest.raises(ValueError, match=r"stability_probe compares .* 'sae_2' has 0 that are unstable"):
        probed(rows, labels)
    saes = [sae_of(own) for own in rows]
    with pytest.raises(ValueError, match=r"stability_probe was given 2 SAEs .* with a report of 3"):
        stability_probe(saes[:2], report_of(labels, saes))


def small() -> StabilityProbe:
    return probed(*seeds(shift=0.7), n_shuffles=2)


def test_StabilityProbe_measure_of_a_probe_that_calls_nothing_unstable_says_nan() -> None:
    silent = {
        "true_positives": 0,
        "false_positives": 0,
        "false_negatives": 4,
        "true_negatives": 4,
        "auc": 0.5,
    }
    scores = tuple(ProbeScore(i, 1 - i, None, h, **silent) for i in range(2) for h in (True, False))
    probe = StabilityProbe(("a", "b"), scores, torch.zeros(2, 3), torch.zeros(2))
    assert all(map(math.isnan, probe.measure("precision")))
    assert probe.measure("f1") == (0, 0)


def test_StabilityProbe_measure_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"no measure 'F1'. Give one of 'f1', 'precision'"):
        small().measure("F1")
    with pytest.raises(
        ValueError, match=r"no kind 'test'. Give one of 'others', 'others_seen', 'own', 'shuffled'."
    ):
        small().measure("f1", "test")


def test_StabilityProbe_saved_and_loaded_is_the_same(tmp_path: Any) -> None:
    probe = small()
    probe.save(tmp_path / "probe.json")
    loaded = StabilityProbe.load(tmp_path / "probe.json")
    assert (loaded.names, loaded.scores, loaded.notes, loaded.provenance) == (
        probe.names, probe.scores, probe.notes, probe.provenance,
    )  # fmt: skip
    assert torch.equal(loaded.weights, probe.weights) and torch.equal(loaded.biases, probe.biases)
    assert repr(loaded) == repr(probe)


def test_StabilityProbe_load_of_a_truncated_file_says_so(tmp_path: Any) -> None:
    path = tmp_path / "probe.json"
    small().save(path)
    whole = path.read_text()
    for length in range(0, len(whole) - 2, 499):
        path.write_text(whole[:length])
        with pytest.raises(
            ValueError, match=r"is not a StabilityProbe .* or measure again with stability_probe."
        ):
            StabilityProbe.load(path)
    path.write_text(whole)
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match="are not beside it"):
        StabilityProbe.load(path)


def test_StabilityProbe_plot_draws_bars_by_kind_and_the_trivial_answer() -> None:
    probe = small()
    drawing = probe.plot()
    names = ["F1", "F1, classes equally common", "AUC"]
    kinds = {
        "other seeds, features held out": "others",
        "other seeds, near-copies seen": "others_seen",
        "the seed it was learnt on": "own",
        "other seeds, held out, shuffled labels": "shuffled",
    }
    bars = [trace for trace in drawing.data if trace.type == "bar"]
    assert [bar.name for bar in bars] == list(kinds)
    for bar in bars:
        estimates = [probe.measure(measure, kinds[bar.name]) for measure in ("f1", "balanced_f1", "auc")]
        assert list(bar.x) == names and list(bar.y) == [mean for mean, _ in estimates]
        assert list(bar.error_y.array) == [sd for _, sd in estimates]
    trivial = drawing.data[-1]
    assert trivial.name == "“unstable” to everything"
    assert list(trivial.y) == [probe.measure("always_unstable_f1")[0], 2 / 3, 0.5]


def test_StabilityProbe_repr_says_in_three_lines_what_was_found() -> None:
    lines = repr(small()).splitlines()
    assert len(lines) == 3
    assert (
        lines[0]
        == "StabilityProbe of 3 SAEs (sae_0, …), learnt on each and tried on the others: unstable against stable"
    )
    assert (
        lines[1].startswith("  F1 held out 0.")
        and lines[1].count("(seen 0.") == lines[1].count(", shuffled 0.") == 3
        and "always unstable 0.6" in lines[1]
        and "always 0.667) · AUC held out 0." in lines[1]
    )
    assert lines[2] == "  gpt2 at blocks.1.hook_resid_post"


def test_StabilityProbe_in_a_notebook_is_its_table() -> None:
    html = small()._repr_html_()
    assert html.startswith("<p>StabilityProbe of 3 SAEs") and html.count("<tr") == 1 + len(MEASURES)

"""The result of a deactivation test: its tables, its comparison, its figure and its file, by hand-worked numbers."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from sae_lens_ext.analysis.flow.deactivation import DeactivationResult, TestedSite
from sae_lens_ext.analysis.flow.deactivation.rows import table
from sae_lens_ext.analysis.flow.deactivation.summary import N_BOOTSTRAP, draw_texts, mean_of

NAN = math.nan
METHODS = ("cosine", "random_active")
SITES = (
    TestedSite(1, "blocks.1.hook_out", {"residual": "blocks.0.hook_out"}),
    TestedSite(2, "blocks.2.hook_out", {"residual": "blocks.1.hook_out", "mlp": "blocks.2.mlp.hook_out"}),
)


def result_of() -> DeactivationResult:
    """Four targets of three texts, three of layer 1; "cosine" names an active predecessor for two of them, and for none in the MLP."""
    layer, text = torch.tensor([1, 1, 1, 2]), torch.tensor([0, 0, 1, 2])
    change = torch.full((4, 2, 2), NAN)
    change[:, 0] = torch.tensor([[1.0, 0.5], [0.5, -2.5], [NAN, 0.25], [NAN, 0.0]])
    change[3, 1, 1] = 1.0
    old = torch.tensor([2.0, 4.0, 4.0, 8.0])
    new = (1 - change) * old[:, None, None]
    predecessor = torch.where(change.isnan(), -1, 7)
    kinds = ("residual", "mlp")
    rows = table(
        SITES, kinds, METHODS, layer=layer, text=text, change=change, new=new, n_texts=3, seed=0
    )  # fmt: skip
    return DeactivationResult(
        rows=rows,
        sites=SITES,
        kinds=kinds,
        methods=METHODS,
        n_texts=3,
        text=text,
        position=torch.tensor([1, 2, 1, 5]),
        token_id=torch.tensor([9, 8, 7, 6]),
        layer=layer,
        feature=torch.tensor([3, 4, 3, 0]),
        activation=old,
        predecessor=predecessor,
        predecessor_activation=torch.where(change.isnan(), 0.0, 1.5),
        new_activation=new,
        activation_change=change,
        provenance={"model_name": "gpt2", "seed": 0},
    )


RESULT = result_of()


def row_of(layer: int | None, kind: str, method: str, which: str):
    return next(
        r for r in RESULT.rows if (r.layer, r.predecessor, r.method, r.set) == (layer, kind, method, which)
    )


def test_DeactivationResult_rows_by_hand() -> None:
    own, common = (row_of(None, "residual", "random_active", which) for which in ("own", "common"))
    assert (own.mean_activation_change, own.median_activation_change) == (-0.4375, 0.125)
    assert (own.success, own.n_pairs, own.n_targets, own.share_with_active_predecessor) == (0, 4, 4, 1)
    assert (common.mean_activation_change, common.n_pairs, common.share_with_active_predecessor) == (
        -1,
        2,
        0.5,
    )
    cosine = row_of(1, "residual", "cosine", "own")
    assert (cosine.mean_activation_change, cosine.success, cosine.n_pairs, cosine.n_targets) == (
        0.75,
        0.5,
        2,
        3,
    )
    mlp = row_of(None, "mlp", "random_active", "own")
    assert (mlp.mean_activation_change, mlp.success, mlp.n_targets) == (1, 1, 1)
    assert not any(row.layer == 1 and row.predecessor == "mlp" for row in RESULT.rows)
    assert [row.layer for row in RESULT.rows][-1] is None


def test_mean_of_is_the_bootstrap_over_texts_by_hand() -> None:
    values, text = np.array([1.0, 0.0, 0.0, 5.0]), np.array([0, 1, 1, 3])
    weights = draw_texts(5, seed=2)
    assert weights.shape == (N_BOOTSTRAP, 5) and (weights.sum(axis=1) == 5).all()
    means = []
    for times in weights:
        drawn = [v for t, n in enumerate(times) for v in list(values[text == t]) * n]
        if drawn:
            means.append(np.mean(drawn))
    mean, low, high = mean_of(values, text, weights)
    assert mean == 1.5
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert mean_of(values[:0], text[:0], weights) == (None, None, None)


def test_DeactivationResult_difference_is_paired() -> None:
    found = RESULT.difference("cosine", "random_active")
    assert (found.mean, found.n_pairs) == (1.75, 2)
    assert (found.low, found.high) == (1.75, 1.75)  # both of one text
    assert RESULT.difference("random_active", "cosine", layer=1).mean == -1.75
    assert RESULT.difference("cosine", "random_active", of="success").mean == 0.5
    none = RESULT.difference("cosine", "random_active", predecessor="mlp")
    assert (none.mean, none.low, none.n_pairs) == (None, None, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": "pearson"}, "no method 'pearson'. It has 'cosine', 'random_active'."),
        ({"predecessor": "attention"}, "no kind of predecessor 'attention'"),
        ({"layer": 7}, "no layer 7. It has None, 1, 2."),
        ({"of": "ac"}, "no measure 'ac'"),
    ],
)
def test_DeactivationResult_difference_of_what_is_not_there_says_so(given, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RESULT.difference(**{"first": "cosine", "second": "random_active", **given})


def test_DeactivationResult_frames() -> None:
    frame = RESULT.to_frame()
    assert len(frame) == len(RESULT.rows) == 20
    assert list(frame)[:5] == ["layer", "predecessor", "method", "set", "mean_activation_change"]
    assert frame["layer"].isna().sum() == 8 and frame["layer"].dropna().tolist() == [1] * 4 + [2] * 8
    assert frame["success"].dtype == float and frame["n_pairs"].sum() == sum(r.n_pairs for r in RESULT.rows)
    pairs = RESULT.pairs_frame()
    assert len(pairs) == 3 * 2 + 4 and pairs.tested.sum() == 7
    assert pairs.iloc[0].to_dict() == {
        "text": 0, "position": 1, "token_id": 9, "layer": 1, "feature": 3, "activation": 2.0, "predecessor_kind": "residual",
        "method": "cosine", "predecessor": 7, "predecessor_activation": 1.5, "tested": True, "new_activation": 0.0,
        "activation_change": 1.0,
    }  # fmt: skip
    assert pairs[~pairs.tested].predecessor.tolist() == [-1, -1, -1]


def test_DeactivationResult_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "result.json")
    loaded = DeactivationResult.load(tmp_path / "result.json")
    for field in dataclasses.fields(DeactivationResult):
        own, other = getattr(RESULT, field.name), getattr(loaded, field.name)
        if isinstance(own, torch.Tensor):
            torch.testing.assert_close(own, other, equal_nan=True, rtol=0, atol=0)
        else:
            assert own == other
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(
        ValueError, match="is not a DeactivationResult .*or measure again with deactivation_test"
    ):
        DeactivationResult.load(tmp_path / "result.json")


def test_DeactivationResult_plot_draws_a_bar_for_each_method_and_kind() -> None:
    for which, n in (("own", [2, 4]), ("common", [2, 2])):
        figure = RESULT.plot(which)
        assert isinstance(figure, go.Figure)
        bars = [bar for bar in figure.data if bar.name == "residual"]
        assert [bar.xaxis for bar in bars] == ["x", "x2"] and list(bars[0].x) == list(METHODS)
        assert list(bars[0].customdata) == n
        assert min(bars[0].error_y.array) >= 0 and min(bars[0].error_y.arrayminus) >= 0
    assert list(RESULT.plot("own").data[0].y) == [0.75, -0.4375]
    with pytest.raises(ValueError, match="asked for the set 'all'"):
        RESULT.plot("all")  # type: ignore[arg-type]


def test_DeactivationResult_repr_says_what_was_measured() -> None:
    assert repr(RESULT) == (
        "DeactivationResult of 4 active features at 3 texts, layers 1, 2\n"
        "  activation change and success: cosine (residual) 0.75, 50%; random_active (residual) -0.44, 0%; random_active (mlp) 1.00, 100%\n"
        "  gpt2 at blocks.1.hook_out, blocks.2.hook_out"
    )
    html = RESULT._repr_html_()
    assert html.startswith("<p>DeactivationResult") and html.count("<tr") == 9 and "NaN" not in html

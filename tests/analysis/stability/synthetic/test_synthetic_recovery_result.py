"""A FeatureRecovery: its means, its tables, its figure and its file, by hand-worked numbers."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from sae_lens_ext.analysis.stability.synthetic.recovery import MEASURES, FeatureRecovery, GroupRecovery
from tests.analysis.stability.synthetic.synthetic_cases import MODEL, mixed, recovery_of


def row(sae: str, group: str, **numbers: Any) -> GroupRecovery:
    fields = {
        "n_latents": 8,
        "reappearance": 0.5,
        "null_reappearance": 0.25,
        "truth_cosine": 0.75,
        "null_truth_cosine": 0.5,
        "latent_cosine": 0.625,
        "null_latent_cosine": 0.375,
        "projection_energy": 0.875,
    }
    return GroupRecovery(sae=sae, group=group, **{**fields, **numbers})


RESULT = FeatureRecovery(
    model=MODEL,
    measurements=(
        row("a", "independent", reappearance=1.0, truth_cosine=1.0, projection_energy=0.0),
        row("a", "low_rank"),
        row("b", "independent", n_latents=10, reappearance=0.75, truth_cosine=0.5, projection_energy=0.25),
        row("b", "low_rank", n_latents=9),
    ),
    threshold=0.7,
    provenance={"seed": 0, "n_samples": 500, "stability_report": {"seed": 7}},
)
EMPTY = dict.fromkeys(
    ("reappearance", "null_reappearance", "latent_cosine", "null_latent_cosine", "projection_energy")
)
LOST = replace(
    RESULT,
    measurements=tuple(
        replace(own, n_latents=0, **EMPTY) if own.group == "low_rank" else own for own in RESULT.measurements
    ),
)


def test_FeatureRecovery_means_and_deviations_by_hand() -> None:
    assert RESULT.values("reappearance", "independent") == [1.0, 0.75]
    assert RESULT.mean("reappearance", "independent") == 0.875
    assert RESULT.deviation("reappearance", "independent") == pytest.approx(0.125 * math.sqrt(2))
    assert RESULT.mean("n_latents", "low_rank") == 8.5
    assert LOST.values("reappearance", "low_rank") == []
    assert math.isnan(LOST.mean("reappearance", "low_rank"))
    assert LOST.mean("truth_cosine", "low_rank") == 0.75
    with pytest.raises(
        ValueError,
        match=r"A FeatureRecovery has no measure 'p_hat'\. It has 'n_latents', 'reappearance', 'null_reapp",
    ):
        RESULT.mean("p_hat", "low_rank")
    with pytest.raises(
        ValueError, match=r"A FeatureRecovery has no group 'stable'\. It has 'independent', 'low_rank'\."
    ):
        RESULT.values("reappearance", "stable")


def test_FeatureRecovery_to_frame_has_a_row_for_each_SAE_and_group() -> None:
    frame = RESULT.to_frame()
    assert tuple(frame.columns) == ("sae", "group", *MEASURES)
    assert frame.iloc[2].tolist() == ["b", "independent", 10, 0.75, 0.25, 0.5, 0.5, 0.625, 0.375, 0.25]
    assert frame["sae"].tolist() == ["a", "a", "b", "b"]
    lost = LOST.to_frame()
    assert lost["latent_cosine"].isna().tolist() == [False, True, False, True]
    assert lost["latent_cosine"].dtype == float


def test_FeatureRecovery_summary_has_a_row_for_each_group_and_measure() -> None:
    summary = RESULT.summary()
    assert list(summary.columns) == ["group", "measure", "mean", "deviation"]
    assert summary["measure"].tolist() == [*MEASURES, *MEASURES]
    assert summary.iloc[0].tolist() == ["independent", "n_latents", 9.0, pytest.approx(math.sqrt(2))]
    assert summary.iloc[-1].tolist() == ["low_rank", "projection_energy", 0.875, 0.0]


def test_FeatureRecovery_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    for result in (RESULT, LOST, recovery_of([mixed(0), mixed(100)])):
        result.save(tmp_path / "recovery.json")
        assert FeatureRecovery.load(tmp_path / "recovery.json") == result
        assert repr(FeatureRecovery.load(str(tmp_path / "recovery.json"))) == repr(result)
    assert [path.name for path in tmp_path.iterdir()] == ["recovery.json"]
    content = json.loads((tmp_path / "recovery.json").read_text())
    assert content["format"] == "sae_lens_ext.FeatureRecovery/1"
    assert content["model"]["rank"] == 3


def test_FeatureRecovery_load_of_a_truncated_file_says_so_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "recovery.json"
    RESULT.save(path)
    whole = path.read_text()
    for length in range(0, len(whole) - 2, 97):
        path.write_text(whole[:length])
        with pytest.raises(
            ValueError,
            match=r"recovery\.json is not a FeatureRecovery that.*FeatureRecovery\.save wrote, or measure again with LowRank",
        ):
            FeatureRecovery.load(path)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda text: text.replace("FeatureRecovery/1", "FeatureRecovery/9"), "its format is"),
        (lambda text: text.replace('"truth_cosine"', '"true_cosine"', 1), "true_cosine"),
        (lambda text: text.replace('"rank": 3', '"rank": 300'), "leaves no dimension"),
        (lambda text: text.replace('"rank": 3', '"ranks": 3'), "ranks"),
        (lambda text: text.replace('"measurements"', '"rows"'), "measurements"),
        (lambda text: text.replace('"provenance"', '"origin"'), "provenance"),
        (lambda text: "[]", "list indices"),
    ],
)
def test_FeatureRecovery_load_refuses_what_is_not_whole(tmp_path: Path, damage: Any, complaint: str) -> None:
    path = tmp_path / "recovery.json"
    RESULT.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match="is not a FeatureRecovery that this version can read") as info:
        FeatureRecovery.load(path)
    assert complaint in str(info.value)
    with pytest.raises(FileNotFoundError):
        FeatureRecovery.load(tmp_path / "none.json")


def test_FeatureRecovery_repr_says_in_three_lines_what_was_found() -> None:
    assert repr(RESULT) == (
        "FeatureRecovery of 2 SAEs (a, b): 10 independent features, 12 low-rank ones in 3 of 24 dimensions\n"
        "  independent: 9.0 latents · p̂ 0.875 (null 0.250) · cosine from the truth 0.750 (null 0.500), to it 0.625 (null 0.375) · energy in "
        "span(B) 0.125\n"
        "  low_rank: 8.5 latents · p̂ 0.500 (null 0.250) · cosine from the truth 0.750 (null 0.500), to it 0.625 (null 0.375) · energy in "
        "span(B) 0.875"
    )
    assert "  low_rank: no latents · cosine from the truth 0.750 (null 0.500)" in repr(LOST)
    assert "p̂" not in repr(replace(RESULT, threshold=None))
    many = replace(RESULT, measurements=tuple(row(f"s{i}", "low_rank") for i in range(5)))
    assert "of 5 SAEs (s0, s1, s2, …)" in repr(many)


def test_FeatureRecovery_in_a_notebook_is_its_text_and_its_summary() -> None:
    html = RESULT._repr_html_()
    assert html.startswith("<p>FeatureRecovery of 2 SAEs") and html.count("<tr") == 1 + 2 * len(MEASURES)
    assert "<td>0.875</td>" in html


def test_FeatureRecovery_plot_draws_bars_beside_what_chance_gives() -> None:
    figure = RESULT.plot()
    assert isinstance(figure, go.Figure)
    drawn = [(trace.type, trace.name, list(trace.x), list(trace.y), trace.xaxis) for trace in figure.data]
    both = ["independent", "low_rank"]
    assert drawn == [
        ("bar", "independent", ["independent"], [0.875], "x"),
        ("bar", "low_rank", ["low_rank"], [0.5], "x"),
        ("scatter", "chance", both, [0.25, 0.25], "x"),
        ("bar", "independent", ["independent"], [0.75], "x2"),
        ("bar", "low_rank", ["low_rank"], [0.75], "x2"),
        ("scatter", "chance", both, [0.5, 0.5], "x2"),
        ("bar", "independent", ["independent"], [0.625], "x3"),
        ("bar", "low_rank", ["low_rank"], [0.625], "x3"),
        ("scatter", "chance", both, [0.375, 0.375], "x3"),
        ("bar", "independent", ["independent"], [0.125], "x4"),
        ("bar", "low_rank", ["low_rank"], [0.875], "x4"),
        ("scatter", "chance", both, [0.125, 0.125], "x4"),
    ]
    assert figure.data[0].error_y.array[0] == pytest.approx(0.125 * math.sqrt(2))
    assert [trace.showlegend for trace in figure.data] == [True] * 3 + [False] * 9
    assert figure.data[0].marker.color != figure.data[1].marker.color


def test_FeatureRecovery_plot_without_a_report_has_no_p_hat_and_says_none_of_no_latents() -> None:
    figure = replace(LOST, threshold=None).plot()
    assert len(figure.data) == 9
    assert [annotation.text for annotation in figure.layout.annotations] == [
        "true feature to<br>nearest latent, cosine",
        "latent to nearest<br>true feature, cosine",
        "energy in span(B)",
    ]
    texts = [trace.text[0] for trace in figure.data if trace.type == "bar"]
    assert texts == ["0.75", "0.75", "0.62", "none", "0.12", "none"]

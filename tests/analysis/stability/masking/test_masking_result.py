"""The curve: its table, its comparison, its figure and its file, by hand-worked numbers."""

import json
import math
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from sae_lens_ext.analysis.stability.masking.result import MaskingCurve, MaskingRow

EV = {
    "stable": {1: (0.75, 0.625), 2: (0.5, 0.25), 4: (0.0, 0.0)},
    "unstable": {1: (0.75, 0.75), 2: (0.75, 0.75), 4: (0.75, 0.625), 7: (0.5, 0.625)},
    "frequency-matched": {1: (0.75, 0.625), 2: (0.625, 0.5), 4: (0.0, 0.0)},
}
RATE = {"stable": 0.5, "unstable": 0.25, "frequency-matched": 0.375}


def curve_with(ce: bool = True, groups: Any = EV, **fields: Any) -> MaskingCurve:
    """A curve in which a lost tenth of EV adds as many nats to a cross-entropy of 3."""
    rows = []
    for group, counts in groups.items():
        for draw in (0, 1):
            rows.append(MaskingRow(group, 0, draw, 0.75, 3.0 if ce else None, None, 0.0))
            for n, evs in counts.items():
                nats = 3.75 - evs[draw] if ce else None
                rows.append(MaskingRow(group, n, draw, evs[draw], nats, RATE[group], n / 8))
    numbers = {"ev": 0.75, "ce": 2.5 if ce else None, "ce_with": 3.0 if ce else None}
    sizes = {"n_stable": 4, "n_unstable": 7, "n_tokens": 1200, "n_predictions": 90 if ce else 0}
    provenance = {"model_name": "gpt2", "hook_name": "blocks.7.hook_out", "seed": 0}
    return MaskingCurve(tuple(rows), "seed_0", **{**numbers, **sizes, "provenance": provenance, **fields})


CURVE = curve_with()


def test_MaskingCurve_names_groups_and_counts() -> None:
    assert CURVE.groups == ("stable", "unstable", "frequency-matched")
    assert CURVE.counts("unstable") == (0, 1, 2, 4, 7) and CURVE.counts("stable") == (0, 1, 2, 4)
    assert curve_with(groups={"unstable": {5: (0.5, 0.5)}}).groups == ("unstable",)
    assert CURVE.counts("none") == ()


def test_MaskingCurve_at_gives_the_rows_of_all_draws() -> None:
    assert [(row.draw, row.ev, row.ce) for row in CURVE.at("stable", 2)] == [(0, 0.5, 3.25), (1, 0.25, 3.5)]
    assert len(CURVE.at("frequency-matched", 0)) == 2
    with pytest.raises(
        ValueError,
        match=r"no row with 7 latents of the group 'stable' masked. It has stable: 0, 1, 2, 4; unstable: 0, 1, 2, 4, 7; freq",
    ):
        CURVE.at("stable", 7)
    with pytest.raises(ValueError, match="group 'middle' masked"):
        CURVE.at("middle", 1)


def test_MaskingCurve_loss_by_hand() -> None:
    loss = CURVE.loss("stable", 2)
    assert (loss.group, loss.n_masked, loss.mean_firing_rate) == ("stable", 2, 0.5)
    assert (loss.ev_lost, loss.ce_added) == ((0.25, 0.5), (0.25, 0.5))
    assert CURVE.loss("unstable", 0).ev_lost == (0, 0)
    assert curve_with(ce=False).loss("stable", 2).ce_added is None
    assert str(loss) == (
        "2 stable latents (firing rate 50.00%): loses 0.375 (0.250 to 0.500) of EV, adds 0.375 (0.250 to 0.500) nats"
    )
    assert (
        str(curve_with(ce=False).loss("stable", 4))
        == "4 stable latents (firing rate 50.00%): loses 0.750 of EV"
    )


def test_MaskingCurve_asymmetry_with_fewer_unstable_latents_than_four_times_says_so() -> None:
    found = CURVE.asymmetry()
    assert (found.stable.n_masked, found.unstable.n_masked, found.multiple) == (4, 7, 1.75)
    assert (found.stable.ev_lost, found.unstable.ev_lost) == ((0.75, 0.75), (0.25, 0.125))
    assert found.unstable.ce_added == (0.25, 0.125)
    assert repr(found) == (
        "masking 4 stable latents (firing rate 50.00%): loses 0.750 of EV, adds 0.750 nats\n"
        "masking 7 unstable latents (firing rate 25.00%): loses 0.188 (0.125 to 0.250) of EV, adds 0.188 (0.125 to 0.250) nats\n"
        "1.75 unstable for each stable one, not 4: these are all there are"
    )


def test_MaskingCurve_asymmetry_of_four_times_as_many() -> None:
    found = CURVE.asymmetry(1)
    assert (found.stable.n_masked, found.unstable.n_masked, found.multiple) == (1, 4, 4)
    assert repr(found).endswith("\n4 unstable for each stable one")
    assert CURVE.asymmetry(2, multiple=2).unstable.n_masked == 4
    between = CURVE.asymmetry(2, multiple=3)
    assert (between.unstable.n_masked, between.multiple) == (4, 2)
    assert repr(between).endswith("2 unstable for each stable one, not 3: no count nearer to it was measured")


def test_MaskingCurve_asymmetry_of_what_was_not_measured_says_so() -> None:
    with pytest.raises(ValueError, match="no row with 3 latents of the group 'stable'"):
        CURVE.asymmetry(3)
    with pytest.raises(
        ValueError, match=r"no stable latents masked to compare with. Measure counts of at most 4"
    ):
        curve_with(groups={"unstable": {5: (0.5, 0.5)}}).asymmetry()
    with pytest.raises(
        ValueError, match=r"no count of unstable latents from 1 to 4 × 1. Measure counts of at most 7"
    ):
        curve_with(groups={"stable": EV["stable"], "unstable": {5: (0.5, 0.5)}}).asymmetry(1)


def test_MaskingCurve_to_frame_has_exactly_these_columns_and_rows() -> None:
    frame = CURVE.to_frame()
    assert list(frame) == ["group", "n_masked", "draw", "ev", "ce", "mean_firing_rate", "share_of_activation"]
    assert len(frame) == 26
    assert frame.iloc[1].tolist() == ["stable", 1, 0, 0.75, 3.0, 0.5, 0.125]
    assert math.isnan(frame.loc[0, "mean_firing_rate"]) and frame["ce"].notna().all()
    assert curve_with(ce=False).to_frame()["ce"].isna().all()


def test_MaskingCurve_summary_is_the_mean_over_draws() -> None:
    summary = CURVE.summary()
    assert len(summary) == 13 and "draw" not in summary
    assert summary.iloc[2].tolist() == ["stable", 2, 0.375, 3.375, 0.5, 0.25]


def test_MaskingCurve_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    for name, curve in (("with", CURVE), ("without", curve_with(ce=False))):
        curve.save(tmp_path / f"{name}.json")
        assert MaskingCurve.load(str(tmp_path / f"{name}.json")) == curve
    content = json.loads((tmp_path / "with.json").read_text())
    assert content["format"] == "sae_lens_ext.MaskingCurve/1" and content["n_unstable"] == 7
    assert content["rows"][1]["ev"] == 0.75


def test_MaskingCurve_load_of_a_truncated_or_foreign_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    CURVE.save(path)
    whole = path.read_text()
    damaged = [whole[:length] for length in range(0, len(whole) - 2, 501)]
    damaged += [
        whole.replace("Curve/1", "Curve/2"),
        whole.replace('"ev"', '"eve"'),
        whole.replace('"n_stable"', '"n"'),
    ]
    for text in damaged:
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a MaskingCurve that this version can read") as info:
            MaskingCurve.load(path)
    assert str(info.value).endswith("wrote, or measure again with masking_curve.")
    with pytest.raises(FileNotFoundError):
        MaskingCurve.load(tmp_path / "nothing.json")


def test_MaskingCurve_plot_draws_mean_and_range_of_every_group_in_two_panels() -> None:
    figure = CURVE.plot()
    assert isinstance(figure, go.Figure)
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [(line.name, line.xaxis) for line in lines] == [
        (name, axis)
        for axis in ("x", "x2")
        for name in ("stable", "unstable", "stable, firing as often as the unstable")
    ]
    assert (list(lines[0].x), list(lines[0].y)) == ([1, 2, 4], [0.6875, 0.375, 0.0])
    assert (list(lines[4].x), list(lines[4].y)) == ([1, 2, 4, 7], [3.0, 3.0, 3.0625, 3.1875])
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 6 and not any(band.showlegend for band in bands)
    assert list(bands[0].x) == [1, 2, 4, 4, 2, 1]
    assert list(bands[0].y) == [0.75, 0.5, 0.0, 0.0, 0.25, 0.625]  # largest forth, smallest back
    assert len({(line.line.color, line.line.dash, line.marker.symbol) for line in lines}) == 3
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    levels = [
        (trace.name, trace.xaxis, list(trace.x), list(trace.y))
        for trace in figure.data
        if trace.mode == "lines" and not trace.fill
    ]
    assert levels == [
        ("nothing masked", "x", [1, 7], [0.75, 0.75]),
        ("nothing masked", "x2", [1, 7], [3.0, 3.0]),
        ("model without the SAE", "x2", [1, 7], [2.5, 2.5]),
    ]
    assert sorted(trace.name for trace in figure.data if trace.showlegend) == [
        "model without the SAE",
        "nothing masked",
        "stable",
        "stable, firing as often as the unstable",
        "unstable",
    ]
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == ["explained variance, higher is better", "cross-entropy, nats, lower is better"]


def test_MaskingCurve_plot_without_cross_entropy_has_one_panel() -> None:
    figure = curve_with(ce=False).plot()
    assert {trace.xaxis for trace in figure.data} == {"x"} and len(figure.data) == 7
    assert [annotation.text for annotation in figure.layout.annotations] == [
        "explained variance, higher is better"
    ]


def test_MaskingCurve_repr_says_what_was_measured() -> None:
    assert repr(CURVE) == (
        "MaskingCurve of seed_0, 4 stable and 7 unstable latents, on 1,200 tokens; EV 0.750 · CE 2.500 nats, with the SAE 3.000\n"
        "  masking 4 stable latents (firing rate 50.00%): loses 0.750 of EV, adds 0.750 nats\n"
        "  masking 7 unstable latents (firing rate 25.00%): loses 0.188 (0.125 to 0.250) of EV, adds 0.188 (0.125 to 0.250) nats\n"
        "  masking 4 frequency-matched latents (firing rate 37.50%): loses 0.750 of EV, adds 0.750 nats\n"
        "  gpt2 at blocks.7.hook_out"
    )
    assert "CE" not in repr(curve_with(ce=False)) and "nats" not in repr(curve_with(ce=False))


def test_MaskingCurve_in_a_notebook_is_its_table() -> None:
    html = CURVE._repr_html_()
    assert html.startswith("<p>MaskingCurve of seed_0") and html.count("<tr") == 14
    for text in (
        "<th>n_masked</th>",
        "<th>share_of_activation</th>",
        "<td>frequency-matched</td>",
        "<td>0.6875</td>",
    ):
        assert text in html
    assert "NaN" not in html

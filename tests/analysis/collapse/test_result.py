"""The report as numbers, a table, a picture and a file."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_ext.analysis.collapse import CollapseReport, plot_collapse


def made(**changes: Any) -> CollapseReport:
    generator = torch.Generator().manual_seed(0)
    layers = {"residual": (-1, 0, 1), "values": (0, 1)}
    report = CollapseReport(
        layers=layers,
        widths={"residual": 16, "values": 4},
        alphas=(0.5, math.inf),
        entropies={
            site: torch.rand(2, len(of), 5, generator=generator, dtype=torch.float64)
            for site, of in layers.items()
        },
        fold_accuracies={
            site: torch.tensor([[0.5, 1.0]] * len(of), dtype=torch.float64) for site, of in layers.items()
        },
        n_positions=8,
        words=(" is", " was"),
        per_word=7,
        provenance={"model_name": "tiny", "seed": 0},
    )
    return replace(report, **changes)


def test_numbers_derive_from_sequences_and_folds() -> None:
    report = made()
    assert report.max_entropy == {"residual": math.log(8), "values": math.log(4)}
    assert report.n_sequences == 5 and report.chance == 0.5
    first = report.entropy["values"][1]
    assert first.value == pytest.approx(float(report.entropies["values"][0, 1].mean()))
    assert first.low is not None and first.high is not None and first.low < first.value < first.high
    assert report.entropy_at(math.inf)["values"][1].value == pytest.approx(
        float(report.entropies["values"][1, 1].mean())
    )
    assert report.separability["residual"] == [0.75] * 3
    assert report.separability_spread["residual"] == pytest.approx([0.5**0.5 / 2] * 3)


def test_an_interval_is_that_of_resampled_sequences() -> None:
    values = torch.tensor([0.0, 1.0, 4.0, 2.0, 2.0], dtype=torch.float64)
    report = made(entropies={"residual": values.repeat(2, 3, 1), "values": values.repeat(2, 2, 1)})
    drawn = np.random.default_rng(1).choice(values.numpy(), (20_000, 5)).mean(axis=1)
    found = report.entropy["values"][0]
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn, (2.5, 97.5)).tolist(), abs=0.1)


def test_one_sequence_has_no_interval() -> None:
    report = made()
    report = replace(report, entropies={site: x[:, :, :1] for site, x in report.entropies.items()})
    assert report.entropy["values"][0].low is None
    assert report.to_frame()["entropy_low"].isna().all()
    report.plot()


def test_an_order_that_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"order 2.*0.5, inf.*alpha=2"):
        made().entropy_at(2)


def test_the_frame_has_a_row_for_each_site_layer_and_order() -> None:
    frame = made().to_frame()
    assert len(frame) == 10
    row = frame[(frame["site"] == "values") & (frame["layer"] == 1) & (frame["alpha"] == 0.5)].iloc[0]
    assert row["entropy"] == pytest.approx(made().entropy["values"][1].value)
    assert (row["separability"], row["chance"], row["max_entropy"]) == (0.75, 0.5, math.log(4))
    assert "separability" not in made(words=(), per_word=0, fold_accuracies={}).to_frame()


def test_a_file_gives_back_the_report(tmp_path: Path) -> None:
    report = made()
    report.save(tmp_path / "report.json")
    loaded = CollapseReport.load(tmp_path / "report.json")
    assert loaded.to_frame().equals(report.to_frame())
    assert (loaded.words, loaded.per_word, loaded.alphas, loaded.layers) == (
        report.words,
        7,
        (0.5, math.inf),
        report.layers,
    )
    assert repr(loaded) == repr(report) and loaded.provenance == report.provenance


def test_a_file_without_words_gives_back_the_report(tmp_path: Path) -> None:
    report = made(words=(), per_word=0, fold_accuracies={})
    report.save(tmp_path / "report.json")
    loaded = CollapseReport.load(tmp_path / "report.json")
    assert loaded.fold_accuracies == {} and loaded.separability == {} and loaded.chance is None
    assert "not measured" in repr(loaded)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"format": "other/1"}))
    with pytest.raises(ValueError, match="CollapseReport.*collapse_report"):
        CollapseReport.load(tmp_path / "other.json")


def test_it_shows_itself_in_three_lines() -> None:
    report = made()
    lines = repr(report).splitlines()
    assert len(lines) == 3 and "tiny, 5 sequences of 8 positions" in lines[0]
    assert "α = 0.5" in lines[1] and "' is' / ' was', 7 of each, chance 0.50: residual 0.75" in lines[2]
    html = report._repr_html_()
    assert html.count("<tr") == 6 and "CollapseReport" in html


def lines_of(figure: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for trace in figure.data:
        if trace.name:
            found.setdefault(trace.name, []).append(trace)
    return found


def test_the_picture_has_a_line_for_each_site_and_measure() -> None:
    report = made()
    lines = lines_of(report.plot())
    assert {name: len(traces) for name, traces in lines.items()} == {"residual": 2, "values": 2}
    entropy, accuracy = lines["residual"]
    assert list(entropy.x) == [-1, 0, 1]
    assert list(entropy.y) == pytest.approx([e.value for e in report.entropy["residual"]])
    assert list(accuracy.y) == [0.75] * 3
    assert [len(of) for of in lines_of(report.plot(measure="separability")).values()] == [1, 1]


def test_several_reports_have_a_colour_each_and_sites_a_dash() -> None:
    routed = made(
        layers={"residual": (-1, 0, 1), "routed values": (0, 1)}, widths={"residual": 16, "routed values": 4}
    )
    routed = replace(
        routed,
        entropies={"residual": routed.entropies["residual"], "routed values": routed.entropies["values"]},
        fold_accuracies={
            "residual": routed.fold_accuracies["residual"],
            "routed values": routed.fold_accuracies["values"],
        },
    )
    lines = lines_of(plot_collapse({"plain": made(), "LIMe": routed}))
    assert set(lines) == {"plain · residual", "plain · values", "LIMe · residual", "LIMe · routed values"}
    assert lines["plain · residual"][0].line.color == lines["plain · values"][0].line.color
    assert lines["plain · residual"][0].line.color != lines["LIMe · residual"][0].line.color
    assert lines["plain · residual"][0].line.dash == lines["LIMe · residual"][0].line.dash
    assert set(lines_of(plot_collapse({"a": made(), "b": made()}, sites=("values",)))) == {"a", "b"}


def test_seeds_are_drawn_as_their_mean_and_range() -> None:
    low, high = made(), made()
    high = replace(high, entropies={site: x + 1 for site, x in high.entropies.items()})
    figure = plot_collapse({"plain": [low, high]}, measure="entropy", sites=("values",))
    line = lines_of(figure)["plain · values"][0]
    expected = [e.value + 0.5 for e in low.entropy["values"]]
    assert list(line.y) == pytest.approx(expected)
    assert line.customdata[:, 1] - line.customdata[:, 0] == pytest.approx([1, 1])


def test_entropy_of_reports_with_and_without_words_is_drawn_together() -> None:
    reports = {"a": made(), "b": made(words=(), per_word=0, fold_accuracies={})}
    assert {len(of) for of in lines_of(plot_collapse(reports)).values()} == {1}
    assert plot_collapse({"a": made(), "b": made(words=(" a", " b"))}, measure="entropy").data


@pytest.mark.parametrize(
    ("reports", "settings", "match"),
    [
        ({}, {}, "by name"),
        (made(), {}, "by name"),
        ({"a": []}, {}, "no report as 'a'"),
        ({"a": [3]}, {}, "no report as 'a'"),
        ({"a": 3}, {}, "no report as 'a'"),
        (
            {"a": [made(), made(provenance={"skip_positions": 1})]},
            {},
            "other skip_positions or context_size as 'a'",
        ),
        ({"a": made(), "b": made(provenance={"z_score": False})}, {}, "with z-scoring and without"),
        ({"a": made()}, {"measure": "rank"}, "measure = 'rank'"),
        ({"a": made(words=(), fold_accuracies={})}, {"measure": "separability"}, "words=None"),
        ({"a": made()}, {"sites": ("keys",)}, r"sites = \('keys',\).*'residual', 'values'"),
        ({"a": made(), "b": made(alphas=(1.0, 2.0))}, {}, "first orders are"),
        ({"a": made(), "b": made(words=(" a", " b"))}, {}, "tell other words apart.*measure='entropy'"),
        ({"a": [made(), made(layers={"residual": (-1, 0, 1)})]}, {}, "other sites or layers as 'a'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(reports: Any, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plot_collapse(reports, **settings)

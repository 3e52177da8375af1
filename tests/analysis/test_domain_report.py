"""The report: its table, its comparison, its figure and its file, by hand-worked numbers."""

import json
import math
import os
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from sae_lens_ext.analysis.domains import DomainMeasurement, DomainReport


def row(sae: str, domain: str, **numbers: Any) -> DomainMeasurement:
    fields = {"ev": 0.5, "ce": 2.0, "ce_with": 2.5, "ce_ablated": 4.0, "l0": 3.0, "n_tokens": 100}
    return DomainMeasurement(sae=sae, domain=domain, **{**fields, **numbers})


REPORT = DomainReport(
    (
        row("base", "code"),
        row("base", "general", ev=-0.5, ce=3.0, ce_with=2.75, ce_ablated=3.5),
        row("boosted", "code", ev=0.625, ce_with=2.25, l0=4.0),
        row("boosted", "general", ev=0.25, ce=3.0, ce_with=3.25, ce_ablated=3.5, n_tokens=1200),
    ),
    {"model_name": "gpt2", "hook_names": ["blocks.0.hook_out", "blocks.1.hook_out"], "seed": 0},
)


def test_DomainMeasurement_ce_score_by_hand() -> None:
    assert row("base", "code").ce_score == 0.75  # (4 − 2.5) / (4 − 2)
    assert row("free", "code", ce_with=2.0).ce_score == 1
    assert row("zeros", "code", ce_with=4.0).ce_score == 0
    assert row("worse", "code", ce_with=5.0).ce_score == -0.5


def test_DomainReport_of_numbers_that_nothing_can_be_divided_by_says_nan(tmp_path: Path) -> None:
    idle = DomainMeasurement("base", "code", 0.0, 2.0, 2.0, 2.0, 0.0, 10)
    report = DomainReport((idle, DomainMeasurement("new", "code", 0.5, 2.0, 2.5, 2.0, 1.0, 10)))
    assert math.isnan(idle.ce_score)
    changes = report.changes("base").iloc[0]
    assert math.isnan(changes["ev_change"]) and math.isnan(changes["ce_increase_change"])
    report.save(tmp_path / "report.json")
    assert "NaN" not in (tmp_path / "report.json").read_text()
    assert DomainReport.load(tmp_path / "report.json") == report


def test_DomainReport_with_nothing_in_it_is_an_empty_table() -> None:
    assert list(DomainReport(()).to_frame()) == ["sae", "domain", "ev", "ce", "ce_with", "ce_score", "l0"]
    assert "no tokens each" in repr(DomainReport(()))


def test_DomainReport_names_saes_and_domains_in_order() -> None:
    assert REPORT.saes == ("base", "boosted")
    assert REPORT.domains == ("code", "general")


def test_DomainReport_at_gives_the_one_measurement() -> None:
    assert REPORT.at("boosted", "code") is REPORT.measurements[2]
    assert REPORT.at("base", "general") is REPORT.measurements[1]
    with pytest.raises(
        ValueError,
        match=r"no measurement of 'base' on 'law'. It has the SAEs 'base', 'boosted' and the domains 'code'",
    ):
        REPORT.at("base", "law")
    with pytest.raises(ValueError, match=r"no measurement of 'code' on 'base'"):
        REPORT.at("code", "base")


def test_DomainReport_to_frame_has_exactly_these_columns_and_rows() -> None:
    frame = REPORT.to_frame()
    assert list(frame.columns) == ["sae", "domain", "ev", "ce", "ce_with", "ce_score", "l0"]
    assert frame.to_numpy().tolist() == [
        ["base", "code", 0.5, 2.0, 2.5, 0.75, 3.0],
        ["base", "general", -0.5, 3.0, 2.75, 1.5, 3.0],
        ["boosted", "code", 0.625, 2.0, 2.25, 0.875, 4.0],
        ["boosted", "general", 0.25, 3.0, 3.25, 0.5, 3.0],
    ]


def test_DomainReport_changes_by_hand() -> None:
    frame = REPORT.changes("base")
    assert list(frame.columns) == ["sae", "domain", "ev_change", "ce_increase_change"]
    assert frame.to_numpy().tolist() == [
        ["boosted", "code", 0.25, -0.5],  # 0.5 → 0.625; the cost 0.5 → 0.25
        ["boosted", "general", 1.5, 2.0],  # −0.5 → 0.25, up by 0.75; −0.25 → 0.25, up by 0.5
    ]


def test_DomainReport_changes_compares_all_others_with_any_of_them() -> None:
    backwards = REPORT.changes("boosted")
    assert backwards["sae"].tolist() == ["base", "base"]
    assert backwards["ev_change"].tolist() == pytest.approx([-0.2, -3.0])
    assert backwards["ce_increase_change"].tolist() == [1.0, -2.0]
    three = DomainReport((*REPORT.measurements, row("third", "code"), row("third", "general")))
    assert three.changes("base")["sae"].tolist() == ["boosted", "boosted", "third", "third"]
    assert three.changes("base")["ev_change"].tolist() == [0.25, 1.5, 0.0, 2.0]


def test_DomainReport_changes_needs_a_base_it_has() -> None:
    with pytest.raises(ValueError, match=r"no measurement of 'bose' on|no SAE 'bose' to compare with"):
        REPORT.changes("bose")
    alone = DomainReport(REPORT.measurements[:2]).changes("base")
    assert len(alone) == 0 and list(alone.columns) == ["sae", "domain", "ev_change", "ce_increase_change"]


def test_DomainReport_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "report.json")
    assert DomainReport.load(tmp_path / "report.json") == REPORT
    REPORT.save(str(tmp_path / "again.json"))
    assert DomainReport.load(str(tmp_path / "again.json")) == REPORT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.json", "report.json"]


def test_DomainReport_file_is_plain_json_that_speaks_for_itself(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    REPORT.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert content["format"] == "sae_lens_ext.DomainReport/1"
    assert content["provenance"] == REPORT.provenance
    assert content["measurements"][0] == {
        "sae": "base",
        "domain": "code",
        "ev": 0.5,
        "ce": 2.0,
        "ce_with": 2.5,
        "ce_ablated": 4.0,
        "l0": 3.0,
        "n_tokens": 100,
        "ce_score": 0.75,
    }


def damaged(**changes: Any) -> str:
    content = {
        "format": "sae_lens_ext.DomainReport/1",
        "provenance": {},
        "measurements": [{"sae": "base", "domain": "code"}],
    }
    return json.dumps({key: value for key, value in {**content, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "Expecting value"),
        ('{"format": "sae_lens_ext.Dom', "Unterminated string"),
        ("[1, 2]", "list indices"),
        ("3", "not subscriptable"),
        (damaged(format="sae_lens_ext.DomainReport/2"), "its format is 'sae_lens_ext.DomainReport/2'"),
        (damaged(format=None), "'format'"),
        (damaged(), "'ev'"),
        (damaged(measurements=None), "'measurements'"),
        (damaged(measurements=[], provenance=None), "'provenance'"),
        (b"\xff\xfe\x00", "decode"),
    ],
)
def test_DomainReport_load_of_a_damaged_or_foreign_file_says_so(
    tmp_path: Path, content: str | bytes, complaint: str
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="is not a DomainReport that this version can read") as info:
        DomainReport.load(path)
    assert str(path) in str(info.value) and complaint in str(info.value)
    assert "Give a file that DomainReport.save wrote, or measure again with evaluate_domains." in str(
        info.value
    )


def test_DomainReport_load_of_a_truncated_file_says_so_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    whole = path.read_text()
    for length in range(0, len(whole) - 2, 97):
        path.write_text(whole[:length])
        with pytest.raises(ValueError, match="is not a DomainReport"):
            DomainReport.load(path)


def test_DomainReport_load_of_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        DomainReport.load(tmp_path / "nothing.json")


def test_DomainReport_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    before = path.read_bytes()

    def full_disk(file: int) -> None:
        os.truncate(file, 100)
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        DomainReport(REPORT.measurements[:1], {}).save(path)
    assert path.read_bytes() == before
    with pytest.raises(TypeError):
        DomainReport(REPORT.measurements, {"unspeakable": object()}).save(path)
    assert path.read_bytes() == before


def test_DomainReport_save_replaces_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    fewer = DomainReport(REPORT.measurements[:1], {})
    fewer.save(path)
    assert DomainReport.load(path) == fewer


def test_DomainReport_plot_draws_a_bar_for_every_sae_and_domain() -> None:
    figure = REPORT.plot()
    assert isinstance(figure, go.Figure)
    bars = [(bar.name, bar.xaxis, list(bar.x), list(bar.y), list(bar.text)) for bar in figure.data]
    domains = ["code", "general"]
    assert bars == [
        ("base", "x", domains, [0.5, -0.5], ["0.50", "-0.50"]),
        ("base", "x2", domains, [0.5, -0.25], ["0.50", "-0.25"]),
        ("boosted", "x", domains, [0.625, 0.25], ["0.62", "0.25"]),
        ("boosted", "x2", domains, [0.25, 0.25], ["0.25", "0.25"]),
    ]
    assert [bar.showlegend for bar in figure.data] == [True, False, True, False]  # one entry for an SAE
    colours = [bar.marker.color for bar in figure.data]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == ["explained variance, higher is better", "cross-entropy added, nats, lower is better"]


def test_DomainReport_plot_takes_more_saes_than_there_are_colours() -> None:
    many = DomainReport(tuple(row(f"sae {i}", "code") for i in range(30)))
    assert len(many.plot().data) == 60


def test_DomainReport_repr_says_in_three_lines_what_was_measured() -> None:
    assert repr(REPORT) == (
        "DomainReport of 2 SAEs (base, boosted)\n"
        "  on 2 domains (code, general), 100 to 1,200 tokens each\n"
        "  gpt2 at blocks.0.hook_out, blocks.1.hook_out"
    )
    assert "(code), 100 tokens each\n" in repr(DomainReport(REPORT.measurements[:1], REPORT.provenance))


def test_DomainReport_in_a_notebook_is_its_table() -> None:
    html = REPORT._repr_html_()
    assert html.startswith("<table") and html.count("<tr") == 5
    for heading in ("sae", "domain", "ev", "ce", "ce_with", "ce_score", "l0"):
        assert f"<th>{heading}</th>" in html
    assert "<td>boosted</td>" in html and "<td>0.625</td>" in html and "<td>0.875</td>" in html

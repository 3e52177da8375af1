"""The report of subspaces: its estimates, its tables, its figure and its file, by hand-worked numbers."""

import math
from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.stability.geometry.subspaces import subspace_report
from sae_lens_ext.analysis.stability.geometry.subspaces_result import CLASSES, GROUPS, TARGETS, SubspaceReport
from tests.analysis.stability.geometry.test_subspaces import by_class, measured, shared_subspace


def small() -> SubspaceReport:
    rows, labels = by_class([(10, 14), (12, 10), (10, 10)])
    return measured(rows, labels, n_draws=2, ranks=(1, 2, 4))


def test_SubspaceReport_estimates_by_hand() -> None:
    pair = ("unstable", "unstable")
    energies = {(g, c): torch.zeros(2, 1, 2, dtype=torch.float64) for g in GROUPS for c in TARGETS}
    energies[pair] = torch.tensor([[[0.25, 0.5]], [[0.5, 0.75]]], dtype=torch.float64)
    whole = {(a, b): energies[a, b][:, 0] for a in CLASSES for b in TARGETS}
    report = SubspaceReport(
        names=("a", "b"),
        d_in=8,
        n_rows=5,
        ranks=(1, 2),
        sizes={"unstable": (5, 6), "stable": (7, 8)},
        effective_ranks={g: torch.tensor([[2.0, 4.0], [4.0, 6.0]], dtype=torch.float64) for g in GROUPS},
        energies=energies,
        energies_all=whole,
        ceilings={c: torch.tensor([[0.5, 0.625], [0.5, 0.75]], dtype=torch.float64) for c in CLASSES},
        max_partner_cosine=0.4,
        no_copy_rows=((3,), (2,)),
    )
    assert report.no_copy_share.tolist() == [3 / 6, 2 / 5]  # of the other SAE's unstable rows
    assert report.chance.tolist() == [0.125, 0.25]
    assert report.effective_rank("any") == pytest.approx((0.5, 0.125 * math.sqrt(2)))  # 3/8 and 5/8
    # Above chance: (0.125 + 0.25) / 2 and (0.375 + 0.5) / 2
    assert report.excess_energy(*pair) == pytest.approx((0.3125, 0.25 / math.sqrt(2)))
    # Of the ceilings' (0.375 + 0.375) and (0.375 + 0.5)
    assert report.attained("unstable") == pytest.approx((0.75, 0.5 / math.sqrt(2)))
    summary = report.summary()
    assert summary["group"].tolist() == list(GROUPS)
    assert summary.iloc[0][1:].tolist() == pytest.approx(
        [0.5, 0.125 * math.sqrt(2), math.sqrt(2) / 8, 0.3125, -0.1875, -0.1875]
    )


def test_SubspaceReport_refuses_unknown_names() -> None:
    report = small()
    with pytest.raises(
        ValueError, match=r"no group 'all' here. Give one of 'unstable', 'stable', 'any', 'random'."
    ):
        report.effective_rank("all")
    with pytest.raises(ValueError, match=r"no class 'any' here. Give one of 'unstable', 'stable'."):
        report.energy("any", "stable", matched=False)
    with pytest.raises(
        ValueError, match=r"no target 'random' here. Give one of 'unstable', 'stable', 'unstable, no copy'."
    ):
        report.excess_energy("stable", "random")
    with pytest.raises(ValueError, match=r"no class 'any' here"):
        report.attained("any")


def test_SubspaceReport_to_frame_has_a_row_for_every_curve_anchor_and_rank() -> None:
    report = small()
    frame = report.to_frame()
    assert list(frame.columns) == ["sae", "source", "target", "rows", "rank", "energy", "chance"]
    assert len(frame) == (12 + 6 + 2) * 3 * 3
    row = frame[
        (frame.sae == "sae_1") & (frame.source == "any") & (frame.target == "stable") & (frame["rank"] == 4)
    ]
    assert row["energy"].item() == float(report.energies["any", "stable"][1, :, 2].mean())
    assert row["chance"].item() == 0.25
    assert frame.groupby("rows").size().to_dict() == {"all": 54, "n": 108, "own": 18}


def test_SubspaceReport_saved_and_loaded_is_the_same(tmp_path: Any) -> None:
    report = measured(*by_class([(10, 14), (12, 10), (10, 10)]), n_draws=2, max_partner_cosine=0.5)
    report.save(tmp_path / "subspaces.json")
    loaded = SubspaceReport.load(tmp_path / "subspaces.json")
    assert repr(loaded) == repr(report) and loaded.to_frame().equals(report.to_frame())
    assert loaded.summary().equals(report.summary())
    assert (loaded.sizes, loaded.provenance) == (report.sizes, report.provenance)
    assert (loaded.no_copy_rows, loaded.max_partner_cosine) == (report.no_copy_rows, 0.5)
    assert report.energy("unstable", "unstable, no copy").isfinite().all()
    for pair, found in report.energies.items():
        assert torch.equal(loaded.energies[pair], found)
    assert len(list(tmp_path.iterdir())) == 2


def test_SubspaceReport_load_of_a_truncated_file_says_so(tmp_path: Any) -> None:
    path = tmp_path / "subspaces.json"
    small().save(path)
    whole = path.read_text()
    for length in range(0, len(whole) - 2, 211):
        path.write_text(whole[:length])
        with pytest.raises(
            ValueError, match=r"is not a SubspaceReport .* or measure again with subspace_report."
        ):
            SubspaceReport.load(path)
    path.write_text(whole)
    beside = next(tmp_path.glob("*.safetensors"))
    beside.write_bytes(beside.read_bytes()[:-8])
    with pytest.raises(ValueError, match="are truncated or not those it was saved with"):
        SubspaceReport.load(path)


def test_SubspaceReport_plot_draws_curves_with_bands_and_bars() -> None:
    report = small()
    drawing = report.plot()
    traces = {trace.name: trace for trace in drawing.data if trace.name}
    assert set(traces) == {
        "unstable → unstable", "unstable: ceiling", "stable → stable", "stable: ceiling",
        "unstable → unstable, no copy", "unstable → stable", "stable → unstable", "any → unstable", "random → unstable", "r / d",
    }  # fmt: skip
    dash_dot = traces["unstable → unstable, no copy"]
    assert (dash_dot.line.dash, dash_dot.line.color) == (
        "dashdot",
        traces["unstable → unstable"].line.color,
    )
    assert list(dash_dot.y) == report.energy("unstable", "unstable, no copy").mean(dim=0).tolist()
    curve = traces["stable → stable"]
    mean = report.energy("stable", "stable").mean(dim=0)
    assert list(curve.x) == [1, 2, 4] and list(curve.y) == mean.tolist()
    band = next(t for t in drawing.data if t.fill == "toself" and t.fillcolor == curve.line.color)
    sd = report.energy("stable", "stable").std(dim=0)
    assert list(band.y) == pytest.approx((mean + sd).tolist() + (mean - sd).flip(0).tolist())
    assert list(traces["r / d"].y) == [1 / 16, 2 / 16, 4 / 16]
    bars = next(trace for trace in drawing.data if trace.type == "bar")
    assert list(bars.x) == list(GROUPS) and list(bars.y) == [report.effective_rank(g)[0] for g in GROUPS]
    assert drawing.layout.xaxis.type == "log"


def test_SubspaceReport_repr_says_in_three_lines_what_was_found() -> None:
    saes, stability = shared_subspace()
    lines = repr(subspace_report(saes, stability, max_partner_cosine=0.1, show_progress=False)).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(
        "SubspaceReport of 3 SAEs (sae_0, …), 20 rows of each group; ER/d: unstable 0.2"
    )
    assert lines[1].startswith("  energy above r/d, mean of r = 1 to 8 of 16: unstable → unstable +0.")
    assert "unstable → stable -0.1" in lines[1]
    assert "unstable → unstable, no copy +nan ± nan" in lines[1]
    assert lines[1].endswith("; no copy: largest cosine below 0.1, 0% of unstable rows")
    assert lines[2].startswith(
        "  gpt2 at blocks.1.hook_resid_post · no rows without near copies: every unstable latent"
    )


def test_SubspaceReport_in_a_notebook_is_its_table() -> None:
    html = small()._repr_html_()
    assert html.startswith("<p>SubspaceReport of 3 SAEs") and html.count("<tr") == 5 and "few rows" in html

"""The picture of a StabilityReport."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from sae_lens_ext.analysis.stability import figure as figure_module
from tests.analysis.stability.labelled import random_rows, sae_of
from tests.analysis.stability.test_feature_stability import stability
from tests.analysis.stability.test_stability_report import RATES, REPORT, altered


def test_StabilityReport_plot_draws_the_distribution_beside_the_null() -> None:
    figure = altered(firing_rates=None).plot()
    assert isinstance(figure, go.Figure)
    real, null = figure.data
    assert [real.name, null.name] == ["latents that count", "null: rotated decoders"]
    assert list(real.x) == list(null.x) == ["0", "1/2", "1"]
    # By anchor, of those that count: (1/3, 1/3, 1/3), (1/2, 1/2, 0), (1/2, 0, 1/2).
    assert list(real.y) == pytest.approx([4 / 9, 5 / 18, 5 / 18])
    columns = np.array([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 2, 0], [1 / 2, 0, 1 / 2]])
    assert list(real.error_y.array) == pytest.approx(columns.std(axis=0, ddof=1).tolist())
    assert list(null.y) == pytest.approx([(1 / 2 + 1 + 1) / 3, (1 / 2) / 3, 0])
    assert [text.text for text in figure.layout.annotations] == ["how often latents come back"]


def test_StabilityReport_plot_with_rates_draws_a_point_for_every_latent_that_fires() -> None:
    figure = REPORT.plot()
    assert [trace.name for trace in figure.data[2:]] == ["stable", "middle", "unstable", "excluded"]
    points = {trace.name: trace for trace in figure.data[2:]}
    assert all(trace.xaxis == "x2" and trace.mode == "markers" for trace in points.values())
    at = {name: sorted(float(x) for x in trace.x) for name, trace in points.items()}
    assert at["stable"] == pytest.approx([0.1, 0.5]) and at["middle"] == pytest.approx([0.1, 0.25])
    assert at["unstable"] == pytest.approx([0.125, 0.2, 0.2])
    assert at["excluded"] == pytest.approx([0.001])  # b's latent that never fires has no place on a logarithm
    for name, heights in (("stable", 1), ("middle", 0.5), ("unstable", 0)):
        assert np.abs(np.asarray(points[name].y) - heights).max() <= 0.15
    assert points["excluded"].customdata.tolist() == [["a", 3]]
    assert figure.layout.xaxis2.type == "log"
    assert len({trace.marker.color for trace in points.values()}) == 4
    again = REPORT.plot()
    assert all(
        (np.asarray(a.y) == np.asarray(b.y)).all() for a, b in zip(figure.data, again.data, strict=True)
    )


def test_StabilityReport_plot_draws_no_more_points_than_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure_module, "MAX_POINTS", 5)
    assert sum(len(trace.x) for trace in REPORT.plot().data[2:]) == 5
    assert all(
        tensor.tolist() == kept.tolist()
        for tensor, kept in zip(REPORT.firing_rates or (), RATES, strict=True)
    )


def test_StabilityReport_plot_of_two_saes_has_the_two_values_there_are() -> None:
    two = stability(
        [sae_of(random_rows(6, 8, 0)), sae_of(random_rows(6, 8, 1))], firing_rates=[torch.ones(6)] * 2
    )
    figure = two.plot()
    assert list(figure.data[0].x) == ["0", "1"]
    low, high = figure.layout.yaxis2.range
    heights = np.concatenate([np.asarray(trace.y, dtype=float) for trace in figure.data[2:]])
    assert len(heights) == 12 and low < heights.min() and heights.max() < high

"""The picture of a StabilityReport."""

import dataclasses
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from sae_lens_ext.analysis.stability import PairMeasures, StabilityReport
from sae_lens_ext.analysis.stability import figure as figure_module
from tests.analysis.stability.labelled import random_rows, sae_of
from tests.analysis.stability.test_feature_stability import stability

PAIRS = (
    PairMeasures(0, 1, pw_mcc=0.5, mmcs_first=0.6, mmcs_second=0.8, matched=0.25, agreement=1.0, shared=0.25),
    PairMeasures(0, 2, pw_mcc=0.25, mmcs_first=0.4, mmcs_second=0.2, matched=0.0, agreement=0.5, shared=None),
    PairMeasures(
        1, 2, pw_mcc=0.75, mmcs_first=0.7, mmcs_second=0.9, matched=0.5, agreement=0.75, shared=0.75
    ),
)
RATES = (torch.tensor([0.5, 0.25, 0.125, 0.001]), torch.tensor([0.1, 0.0, 0.2]), torch.tensor([0.1, 0.2]))
REPORT = StabilityReport(
    names=("a", "b", "c"),
    threshold=0.7,
    max_cosines=(
        torch.tensor(
            [[0.9, 0.7, 0.1, 0.9], [0.8, 0.6, 0.2, 0.8]]
        ),  # p̂ 1, 1/2, 0, and one that does not count
        torch.tensor([[1.0, 1.0, 0.0], [0.5, 1.0, 0.0]]),  # 1/2, does not count, 0
        torch.tensor([[0.75, 0.0], [0.75, -0.5]]),  # 1, 0
    ),
    null_cosines=(
        torch.tensor([[0.1, 0.2], [0.3, 0.8]]),  # a quarter by chance
        torch.tensor([[0.1], [0.2]]),
        torch.tensor([[0.3], [0.4]]),
    ),
    included=(
        torch.tensor([True, True, True, False]),
        torch.tensor([True, False, True]),
        torch.tensor([True, True]),
    ),
    pairs=PAIRS,
    firing_rates=RATES,
    min_firing_rate=0.01,
    links=("gpt2-small/7-res", None, None),
    notes=("a first note", "a second"),
    provenance={"model_name": "gpt2", "hook_name": "blocks.7.hook_out", "seed": 0},
)


def altered(**fields: Any) -> StabilityReport:
    return dataclasses.replace(REPORT, **fields)


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

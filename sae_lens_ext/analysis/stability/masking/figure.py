"""The picture of a MaskingCurve."""

from statistics import fmean
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from sae_lens_ext.analysis.stability.figure import COLOURS, NULL_COLOUR
from sae_lens_ext.analysis.stability.masking.subsets import MATCHED
from sae_lens_ext.analysis.stability.report import STABLE, UNSTABLE

if TYPE_CHECKING:
    from sae_lens_ext.analysis.stability.masking.result import MaskingCurve

STYLES = {
    STABLE: ("stable", COLOURS[STABLE], "solid", "circle"),
    UNSTABLE: ("unstable", COLOURS[UNSTABLE], "solid", "square"),
    MATCHED: ("stable, firing as often as the unstable", qualitative.Safe[4], "dash", "diamond"),
}


def figure(curve: "MaskingCurve") -> go.Figure:
    """Draw a line (mean over draws) and a band (smallest to largest) for each group, and what is measured with nothing masked."""
    has_ce = curve.ce_with is not None
    titles = ["explained variance, higher is better"] + ["cross-entropy, nats, lower is better"] * has_ce
    drawing = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.1)
    for column, measure in enumerate(("ev", "ce")[: len(titles)], start=1):
        for group in curve.groups:
            _add_curve(drawing, curve, group, measure, column)
        drawing.update_xaxes(type="log", title_text="latents masked", row=1, col=column)
    _add_level(drawing, curve, curve.ev, "nothing masked", "dot", 1)
    if has_ce:
        _add_level(drawing, curve, curve.ce_with, "nothing masked", "dot", 2)
        _add_level(drawing, curve, curve.ce, "model without the SAE", "dashdot", 2)
    drawing.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "y": -0.22},
        margin={"l": 60, "r": 20, "t": 50, "b": 60},
        height=440,
    )
    return drawing


def _add_curve(drawing: go.Figure, curve: "MaskingCurve", group: str, measure: str, column: int) -> None:
    label, colour, dash, symbol = STYLES[group]
    counts = [n for n in curve.counts(group) if n > 0]  # a logarithmic axis has no 0
    values = [[getattr(row, measure) for row in curve.at(group, n)] for n in counts]
    drawing.add_scatter(
        x=[*counts, *reversed(counts)],
        y=[*map(max, values), *map(min, reversed(values))],
        fill="toself",
        fillcolor=colour,
        opacity=0.25,
        line_width=0,
        hoverinfo="skip",
        legendgroup=group,
        showlegend=False,
        mode="lines",
        row=1,
        col=column,
    )
    drawing.add_scatter(
        x=counts,
        y=[fmean(draws) for draws in values],
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 3},
        marker={"symbol": symbol, "size": 9},
        name=label,
        legendgroup=group,
        showlegend=column == 1,
        row=1,
        col=column,
    )


def _add_level(
    drawing: go.Figure, curve: "MaskingCurve", y: float | None, label: str, dash: str, column: int
) -> None:
    """A horizontal line over all counts; a label that is in both panels has one entry in the legend."""
    counts = [row.n_masked for row in curve.rows if row.n_masked > 0]
    drawing.add_scatter(
        x=[min(counts), max(counts)],
        y=[y, y],
        mode="lines",
        line={"color": NULL_COLOUR, "dash": dash, "width": 2},
        name=label,
        legendgroup=label,
        showlegend=not any(drawing.select_traces({"name": label})),
        row=1,
        col=column,
    )

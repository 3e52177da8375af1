"""Pictures of dose responses: one with all it measures, or the scores of several."""

from collections.abc import Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from sae_lens_ext.bootstrap import Estimate
from sae_lens_ext.steering.dose_response.result import DoseResponse

COLOURS = qualitative.Safe
UNSTEERED_COLOUR = "#888888"
_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "legend": {"orientation": "h", "y": -0.22},
    "margin": {"l": 60, "r": 20, "t": 50, "b": 60},
    "height": 420,
}


def figure(response: DoseResponse) -> go.Figure:
    """Draw a line and a band (95 % interval) for each measure, and what the unsteered model does."""
    score = "behaviour × coherence" if response.mode == "activate" else "(1 − behaviour) × coherence"
    panels = (
        ("behaviour", ("behaviour",)),
        ("coherence", ("coherence", "distinct_bigrams")),
        (f"score = {score}", ("score",)),
    )
    drawing = make_subplots(
        rows=1, cols=3, subplot_titles=[title for title, _ in panels], horizontal_spacing=0.06
    )
    colours = iter(COLOURS)
    for column, (_, measures) in enumerate(panels, start=1):
        for measure in measures:
            name = "distinct bigrams" if measure == "distinct_bigrams" else measure
            dash = "dash" if measure == "distinct_bigrams" else "solid"
            _add_curve(drawing, response, measure, name, next(colours), dash, row=1, col=column)
        _add_unsteered(drawing, response, measures[0], row=1, col=column)
        drawing.update_xaxes(title_text="strength", row=1, col=column)
        drawing.update_yaxes(range=[-0.03, 1.03], row=1, col=column)
    drawing.update_layout(**_LAYOUT)
    return drawing


def compared(responses: Mapping[str, DoseResponse]) -> go.Figure:
    """Draw the score of each response, see `plot_dose_responses`."""
    drawing = go.Figure()
    for i, (name, response) in enumerate(responses.items()):
        _add_curve(drawing, response, "score", escape(name, quote=False), COLOURS[i % len(COLOURS)], "solid")
    widest = max(responses.values(), key=lambda response: _span(response)[1] - _span(response)[0])
    _add_unsteered(drawing, widest, "score")
    drawing.update_xaxes(title_text="strength")
    drawing.update_yaxes(title_text="score", range=[-0.03, 1.03])
    drawing.update_layout(**_LAYOUT)
    return drawing


def _span(response: DoseResponse) -> tuple[float, float]:
    strengths = [row.strength or 0.0 for row in response.rows]
    return min(strengths), max(strengths)


def _add_curve(
    drawing: go.Figure,
    response: DoseResponse,
    measure: str,
    name: str,
    colour: str,
    dash: str,
    **panel: Any,
) -> None:
    rows = sorted(response.rows, key=lambda row: row.strength or 0.0)
    strengths = [row.strength for row in rows]
    found: list[Estimate] = [getattr(row, measure) for row in rows]
    if all(one.low is not None for one in found):
        drawing.add_scatter(
            x=[*strengths, *reversed(strengths)],
            y=[*(one.high for one in found), *(one.low for one in reversed(found))],
            fill="toself",
            fillcolor=colour,
            opacity=0.2,
            line_width=0,
            mode="lines",
            hoverinfo="skip",
            legendgroup=name,
            showlegend=False,
            **panel,
        )
    drawing.add_scatter(
        x=strengths,
        y=[one.value for one in found],
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 3},
        marker_size=8,
        name=name,
        legendgroup=name,
        **panel,
    )


def _add_unsteered(drawing: go.Figure, response: DoseResponse, measure: str, **panel: Any) -> None:
    level = getattr(response.unsteered, measure).value
    drawing.add_scatter(
        x=list(_span(response)),
        y=[level, level],
        mode="lines",
        line={"color": UNSTEERED_COLOUR, "dash": "dot", "width": 2},
        name="unsteered",
        legendgroup="unsteered",
        showlegend=not any(drawing.select_traces({"name": "unsteered"})),
        **panel,
    )

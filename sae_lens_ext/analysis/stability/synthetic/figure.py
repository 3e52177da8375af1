"""The picture of a FeatureRecovery."""

import math
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from sae_lens_ext.analysis.stability.synthetic.model import GROUPS, INDEPENDENT, LOW_RANK

if TYPE_CHECKING:
    from sae_lens_ext.analysis.stability.synthetic.recovery import FeatureRecovery

COLOURS = {INDEPENDENT: qualitative.Safe[0], LOW_RANK: qualitative.Safe[1]}
PANELS = (
    ("reappearance", "p̂ of latents", "null_reappearance"),
    ("truth_cosine", "true feature to<br>nearest latent, cosine", "null_truth_cosine"),
    ("latent_cosine", "latent to nearest<br>true feature, cosine", "null_latent_cosine"),
    ("projection_energy", "energy in span(B)", None),
)
"""Measure, its title, and the measure of its null. That of the energy is r / d_in."""


def figure(recovery: "FeatureRecovery") -> go.Figure:
    """Draw a bar for each group and measure, the mean over SAEs with its deviation, and lines where chance would be."""
    panels = [panel for panel in PANELS if panel[0] != "reappearance" or recovery.threshold is not None]
    drawing = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        subplot_titles=[title for _, title, _ in panels],
        horizontal_spacing=0.03,
    )
    for column, (measure, _, null) in enumerate(panels, start=1):
        for group in GROUPS:
            mean = recovery.mean(measure, group)
            drawing.add_bar(
                x=[group],
                y=[mean],
                error_y={"type": "data", "array": [recovery.deviation(measure, group)]},
                text=["none" if math.isnan(mean) else f"{mean:.2f}"],
                textposition="inside",
                insidetextanchor="start",
                name=group,
                legendgroup=group,
                showlegend=column == 1,
                marker_color=COLOURS[group],
                row=1,
                col=column,
            )
        drawing.add_scatter(
            x=list(GROUPS),
            y=[recovery.chance_energy if null is None else recovery.mean(null, group) for group in GROUPS],
            mode="markers",
            marker={"symbol": "line-ew", "size": 44, "line": {"color": "black", "width": 2}},
            name="chance",
            legendgroup="chance",
            showlegend=column == 1,
            row=1,
            col=column,
        )
    drawing.update_yaxes(range=[0, 1.05])
    drawing.update_xaxes(showticklabels=False)
    drawing.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "y": -0.08},
        margin={"l": 50, "r": 20, "t": 70, "b": 40},
        height=400,
    )
    return drawing

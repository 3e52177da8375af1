"""Pictures of effects: norms by vector, and cosines by vector and block."""

from html import escape
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from sae_lens_ext.steering.reading.effect.persistence_result import Persistence
    from sae_lens_ext.steering.reading.effect.propagated_result import PropagatedEffect

NULL_COLOUR = "#888888"
MAX_TICKS = 16
"""Labels on an axis, at most; more overlap."""
MAX_NUMBERS = 12
"""Blocks up to which each cell has its number written in it."""


def propagated_figure(result: "PropagatedEffect") -> go.Figure:
    """Draw bars of the norms, and points of the share beside its null."""
    x = [
        escape(label, quote=False) if layer is None else str(layer)
        for label, layer in zip(result.labels, result.layers, strict=True)
    ]
    drawing = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=("difference at the last block", "how much tokens agree: ‖mean Δh‖ / mean ‖Δh‖"),
        horizontal_spacing=0.1,
    )
    for name, values, colour in (
        ("mean ‖Δh‖", result.mean_norm, qualitative.Safe[0]),
        ("‖mean Δh‖", result.mean.double().norm(dim=1), qualitative.Safe[4]),
    ):
        drawing.add_bar(x=x, y=values.tolist(), name=name, marker_color=colour, row=1, col=1)
    for name, values, colour in (
        ("share", result.share, qualitative.Safe[3]),
        ("null: random directions", result.null_share, NULL_COLOUR),
    ):
        drawing.add_scatter(
            x=x,
            y=values.tolist(),
            mode="markers",
            marker={"color": colour, "size": 8},
            name=name,
            row=1,
            col=2,
        )
    title = "layer of the vector" if None not in result.layers else "steering"
    drawing.update_xaxes(type="category", title_text=title, nticks=MAX_TICKS)
    drawing.update_yaxes(title_text="norm", rangemode="tozero", row=1, col=1)
    drawing.update_yaxes(range=[-0.03, 1.03], row=1, col=2)
    return drawing.update_layout(
        template="plotly_white",
        barmode="group",
        legend={"orientation": "h", "y": -0.22},
        margin={"l": 60, "r": 20, "t": 50, "b": 60},
        height=420,
    )


def persistence_figure(result: "Persistence") -> go.Figure:
    """Draw Diff-Vector and Diff-Diff side by side on one scale, red for 1, white for 0, blue for −1; empty where there is no cosine."""
    drawing = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=(
            "Diff-Vector: mean cos(Δh<sub>j</sub>, s<sub>j</sub>)",
            "Diff-Diff: mean cos(Δh<sub>j</sub>, mean Δh<sub>j</sub>)",
        ),
        horizontal_spacing=0.08,
        shared_yaxes=True,
    )
    blocks, layers = [str(block) for block in range(result.n_blocks)], [str(layer) for layer in result.layers]
    numbers: dict[str, Any] = {"texttemplate": "%{z:.2f}"} if result.n_blocks <= MAX_NUMBERS else {}
    for column, (matrix, interval) in enumerate(
        (
            (result.diff_vector, result.diff_vector_interval),
            (result.diff_diff, result.diff_diff_interval),
        ),
        start=1,
    ):
        drawing.add_heatmap(
            x=blocks,
            y=layers,
            z=matrix.numpy(),
            customdata=interval.numpy(),
            zmin=-1,
            zmax=1,
            colorscale="RdBu",
            reversescale=True,
            colorbar={"title": {"text": "cosine"}, "tickvals": [-1, -0.5, 0, 0.5, 1]},
            showscale=column == 2,
            hoverongaps=False,
            hovertemplate="vector of layer %{y}, at block %{x}<br>%{z:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
            row=1,
            col=column,
            **numbers,
        )
    drawing.update_xaxes(
        type="category", title_text="block j", nticks=MAX_TICKS, tickangle=0, showgrid=False, zeroline=False
    )
    drawing.update_yaxes(
        type="category", autorange="reversed", nticks=MAX_TICKS, showgrid=False, zeroline=False
    )
    drawing.update_yaxes(title_text="layer i of the vector", col=1)
    return drawing.update_layout(
        template="plotly_white",
        plot_bgcolor="#d5d5d5",
        margin={"l": 60, "r": 20, "t": 50, "b": 60},
        height=480,
    )

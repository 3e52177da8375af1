"""Pictures of gains: the rewards a ratio is made of, and the gains of many pairs."""

from html import escape
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.colors import qualitative

if TYPE_CHECKING:
    from sae_lens_ext.steering.reading.gains.pair_gains import PairGains
    from sae_lens_ext.steering.reading.gains.reward_ratio import RewardRatio

MAX_TICKS = 16
"""Labels on an axis, at most; more overlap."""
MAX_NUMBERS = 12
"""Layers up to which each cell has its number written in it."""


def ratio_figure(result: "RewardRatio") -> go.Figure:
    """Draw the mean rewards as bars with intervals; the ratio is in the title."""
    frame = result.to_frame().iloc[:-1]
    known = bool(frame["low"].notna().all())
    errors: dict[str, Any] = {
        "error_y": {
            "array": frame["high"] - frame["value"],
            "arrayminus": frame["value"] - frame["low"],
        }
    }
    interval = "" if result.low is None else f" ({result.low:.2f} to {result.high:.2f})"
    drawing = go.Figure()
    drawing.add_bar(
        x=[escape(name, quote=False) for name in frame["name"]],
        y=frame["value"],
        marker_color=qualitative.Safe[4],
        **(errors if known else {}),
    )
    drawing.update_yaxes(title_text="mean reward")
    return drawing.update_layout(
        template="plotly_white",
        title_text=f"{result.FORMULA} = {result.value:.2f}{interval}",
        title_font_size=15,
        margin={"l": 60, "r": 20, "t": 50, "b": 40},
        height=400,
    )


def pairs_figure(result: "PairGains") -> go.Figure:
    """Draw the matrix of pair gains, layer by layer: red above 0, blue below; empty where there is none."""
    layers = [str(layer) for layer in result.layers]
    numbers: dict[str, Any] = {"texttemplate": "%{z:.2f}"} if len(layers) <= MAX_NUMBERS else {}
    drawing = go.Figure()
    drawing.add_heatmap(
        x=layers,
        y=layers,
        z=result.matrix.numpy(),
        zmin=-1,
        zmax=1,
        colorscale="RdBu",
        reversescale=True,
        colorbar={"title": {"text": "pair gain"}, "tickvals": [-1, -0.5, 0, 0.5, 1]},
        hoverongaps=False,
        hovertemplate="layers %{y} and %{x}<br>gain %{z:.3f}<extra></extra>",
        **numbers,
    )
    axis: dict[str, Any] = {"type": "category", "nticks": MAX_TICKS, "showgrid": False, "zeroline": False}
    drawing.update_xaxes(title_text="layer j", tickangle=0, **axis)
    drawing.update_yaxes(title_text="layer i", autorange="reversed", **axis)
    return drawing.update_layout(
        template="plotly_white",
        plot_bgcolor="#d5d5d5",
        margin={"l": 60, "r": 20, "t": 30, "b": 60},
        width=620,
        height=540,
    )

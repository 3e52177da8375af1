"""The picture of an OriginAgreement."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from sae_lens_ext.analysis.flow.activity.agreement_result import OriginAgreement


def figure(result: "OriginAgreement") -> go.Figure:
    """Draw Cohen's kappa by layer, and agreement beside what chance gives, with bootstrap intervals."""
    frame = result.to_frame()
    x = frame["layer"].astype(str)
    drawing = make_subplots(
        rows=1, cols=2, subplot_titles=("Cohen's kappa, 0 is chance", "agreement"), horizontal_spacing=0.1
    )
    for column, measure in enumerate(("kappa", "agreement"), start=1):
        drawing.add_scatter(
            x=x,
            y=frame[measure],
            error_y={
                "array": frame[f"{measure}_high"] - frame[measure],
                "arrayminus": frame[measure] - frame[f"{measure}_low"],
            },
            mode="markers",
            marker={"color": qualitative.Safe[4], "size": 9},
            name=f"measured, {result.confidence:.0%} interval",
            showlegend=column == 1,
            row=1,
            col=column,
        )
    drawing.add_scatter(
        x=x,
        y=frame["chance"],
        mode="markers",
        marker={"color": "#888888", "symbol": "line-ew-open", "size": 14},
        name="chance",
        row=1,
        col=2,
    )
    drawing.add_scatter(
        x=[*x, *reversed(x)],
        y=[*frame["chance_high"], *reversed(frame["chance_low"])],
        fill="toself",
        fillcolor="#888888",
        opacity=0.25,
        line_width=0,
        mode="lines",
        hoverinfo="skip",
        name=f"{result.confidence:.0%} of shuffled origins",
        row=1,
        col=1,
    )
    drawing.update_xaxes(title_text="layer", type="category")
    drawing.update_yaxes(tickformat=".0%", row=1, col=2)
    return drawing.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "y": -0.22},
        margin={"l": 60, "r": 20, "t": 50, "b": 60},
        height=440,
    )

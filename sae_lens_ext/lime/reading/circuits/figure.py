"""The picture of depthwise circuits: a row for each, with its shares and the tokens it serves."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_lens_ext.lime.reading.circuits.circuit import Circuit
from sae_lens_ext.steering.reading.lens.shown import shown_token

if TYPE_CHECKING:
    from sae_lens_ext.lime.reading.circuits.result import DepthwiseCircuits

FOR, AGAINST, KEY = "#2166ac", "#b2182b", "#1b1b1b"
ROW = 26
"""Pixels of a row."""
SHOWN, LONGEST = 8, 12
"""Tokens of a row, and characters of each, at most."""
CHARACTERS = 62
"""Of all tokens of a row together, about what fits."""


def figure(result: "DepthwiseCircuits", circuits: Sequence[Circuit]) -> go.Figure:
    """Draw circuits, the first on top."""
    rows = list(range(len(circuits)))
    drawing = make_subplots(
        rows=1, cols=2, column_widths=[0.42, 0.58], horizontal_spacing=0.02, shared_yaxes=True
    )
    data = [[one.name, one.weight, one.key_share] for one in circuits]
    values = [one.value_share for one in circuits]
    drawing.add_bar(
        x=values,
        y=rows,
        orientation="h",
        name="share of the routed value",
        marker_color=[FOR if value >= 0 else AGAINST for value in values],
        customdata=data,
        hovertemplate="%{customdata[0]}, R = %{customdata[1]:.4f}<br>value share %{x:.4f}<extra></extra>",
        row=1,
        col=1,
    )
    drawing.add_scatter(
        x=[one.key_share for one in circuits],
        y=rows,
        mode="markers",
        name="share of the routed key",
        marker={"symbol": "diamond", "size": 8, "color": "white", "line": {"width": 1.5, "color": KEY}},
        customdata=data,
        hovertemplate="%{customdata[0]}, R = %{customdata[1]:.4f}<br>key share %{x:.4f}<extra></extra>",
        row=1,
        col=1,
    )
    drawing.add_scatter(
        x=[0] * len(rows),
        y=rows,
        mode="text",
        text=[_row(one) for one in circuits],
        textposition="middle right",
        textfont={"family": "monospace", "size": 12},
        hovertext=[_hover(one) for one in circuits],
        hoverinfo="text",
        showlegend=False,
        row=1,
        col=2,
    )
    names: dict[str, Any] = {
        "tickvals": rows,
        "ticktext": [f"{one.name} {one.weight:+.2f}" for one in circuits],
        "tickfont_family": "monospace",
    }
    drawing.update_yaxes(
        range=[len(rows) - 0.4, -0.6], showgrid=True, gridcolor="#eeeeee", zeroline=False, **names
    )
    drawing.update_xaxes(title_text="share, signed", zeroline=True, zerolinecolor="#888888", row=1, col=1)
    drawing.update_yaxes(showgrid=False, row=1, col=2)
    drawing.update_xaxes(range=[0, 1], visible=False, row=1, col=2)
    served = "largest share" if result.tokens_by == "share" else "largest contribution"
    drawing.add_annotation(
        text=f"tokens served ({served})",
        xref="x2 domain",
        yref="paper",
        x=0,
        y=1,
        yanchor="bottom",
        xanchor="left",
        showarrow=False,
        font_size=12,
    )
    return drawing.update_layout(
        template="plotly_white",
        title={
            "text": "Depthwise circuits: target ← source head, weight R, shares",
            "font_size": 15,
            "x": 0.01,
            "y": 0.99,
            "yanchor": "top",
            "pad_t": 8,
        },
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"},
        width=1000,
        height=150 + ROW * len(rows),
        bargap=0.35,
        margin={"l": 10, "r": 10, "t": 80, "b": 50},
    )


def _row(circuit: Circuit) -> str:
    """Give the tokens of one circuit, as many as fit."""
    shown, length = [], 0
    for token in circuit.tokens[:SHOWN]:
        text = shown_token(token.token, LONGEST)
        length += len(text) + 2
        if length > CHARACTERS:
            break
        shown.append(escape(text, quote=False))
    return "  ".join(shown)


def _hover(circuit: Circuit) -> str:
    lines = [
        f"{escape(shown_token(token.token), quote=False)} {token.value:.3g} ({token.count}×)"
        for token in circuit.tokens
    ]
    return "<br>".join([circuit.name, *lines])

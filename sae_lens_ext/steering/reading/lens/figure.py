"""Pictures of the logit lens: the layer × token table of several vectors, the bars of one."""

from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_lens_ext.steering.reading.lens.result import SIDES, LogitLensResult, Side
from sae_lens_ext.steering.reading.lens.shown import shown_token

IN_TABLE, IN_BARS = 6, 20
COLUMN, ROW, BAR = 84, 24, 22
"""Pixels of a table's cell, across and down, and of a bar."""
LONGEST_IN_CELL = 11
COLOURS = "RdBu"
UP, DOWN = "#2166ac", "#b2182b"
_TITLES: dict[Side, str] = {"top": "raised most", "bottom": "lowered most"}


def figure(result: LogitLensResult, n: int | None = None) -> go.Figure:
    """Draw a result, see `LogitLensResult.plot`."""
    several = len(result.labels) > 1
    shown = min(n or (IN_TABLE if several else IN_BARS), result.top_ids.shape[1])
    drawing = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=[_TITLES[side] for side in SIDES],
        horizontal_spacing=0.02 if several else 0.06,
        shared_yaxes=several,
    )
    (_draw_table if several else _draw_bars)(drawing, result, shown)
    title = result.reading()
    if several and result.measure == "cosine":
        title += f"; 95 % of random vectors stay within ±{result.random_largest:.3f}"
    drawing.update_layout(
        template="plotly_white",
        title={
            "text": escape(title, quote=False),
            "font_size": 14,
            "x": 0.01,
            "y": 0.995,
            "yanchor": "top",
            "pad_t": 8,
        },
    )
    return drawing


def _draw_table(drawing: go.Figure, result: LogitLensResult, n: int) -> None:
    largest = float(max(result.top_values.abs().max(), result.bottom_values.abs().max()))
    for column, side in enumerate(SIDES, start=1):
        found = [result.at(side, label, n) for label in result.labels]
        ids = (result.top_ids if side == "top" else result.bottom_ids)[:, :n]
        drawing.add_heatmap(
            z=[[value for _, value in row] for row in found],
            x=list(range(1, n + 1)),
            y=list(range(len(found))),
            text=[[_plain(token, LONGEST_IN_CELL) for token, _ in row] for row in found],
            customdata=[
                [
                    [_plain(token), token_id, label, norm]
                    for (token, _), token_id in zip(row, own, strict=True)
                ]
                for row, own, label, norm in zip(
                    found, ids.tolist(), result.labels, result.norms, strict=True
                )
            ],
            texttemplate="%{text}",
            textfont={"family": "monospace", "size": 11},
            hovertemplate="%{customdata[2]}, ‖x‖ = %{customdata[3]:.3g}<br>rank %{x}: %{customdata[0]} (id %{customdata[1]})<br>%{z:.4f}<extra></extra>",
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            row=1,
            col=column,
        )
    labels: dict[str, Any] = {
        "tickvals": list(range(len(result.labels))),
        "ticktext": [escape(label, quote=False) for label in result.labels],
    }
    drawing.update_yaxes(autorange="reversed", showgrid=False, **labels)
    drawing.update_xaxes(dtick=1, showgrid=False, title_text="rank", title_standoff=4)
    drawing.update_layout(
        coloraxis={
            "colorscale": COLOURS,
            "cmin": -largest,
            "cmax": largest,
            "colorbar": {
                "title": {"text": result.measure, "side": "top"},
                "thickness": 12,
                "len": 110,
                "lenmode": "pixels",
                "nticks": 3,
            },
        },
        width=max(620, 120 + 7 * max(map(len, result.labels)) + 2 * n * COLUMN),
        height=max(260, 130 + ROW * len(result.labels)),
        margin={"l": 10, "r": 10, "t": 70, "b": 50},
    )


def _draw_bars(drawing: go.Figure, result: LogitLensResult, n: int) -> None:
    null = result.null_of()
    for column, (side, colour) in enumerate(zip(SIDES, (UP, DOWN), strict=True), start=1):
        found = result.at(side, None, n)
        values = [value for _, value in found]
        ranks = list(range(1, len(found) + 1))
        ids = (result.top_ids if side == "top" else result.bottom_ids)[0, :n].tolist()
        drawing.add_bar(
            x=values,
            y=ranks,
            orientation="h",
            marker_color=colour,
            customdata=[[_plain(token), token_id] for (token, _), token_id in zip(found, ids, strict=True)],
            hovertemplate="rank %{y}: %{customdata[0]} (id %{customdata[1]})<br>%{x:.4f}<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
        ticks: dict[str, Any] = {"tickvals": ranks, "ticktext": [_plain(token) for token, _ in found]}
        drawing.update_yaxes(autorange="reversed", row=1, col=column, tickfont_family="monospace", **ticks)
        drawing.update_xaxes(title_text=result.measure, row=1, col=column)
        reach = (
            [min(0, *values), max(null, *values)] if side == "top" else [min(-null, *values), max(0, *values)]
        )
        drawing.update_xaxes(range=[1.04 * end for end in reach], row=1, col=column)
        where: Any = {"row": 1, "col": column}
        drawing.add_vline(
            x=null if side == "top" else -null, line={"dash": "dot", "color": "#555555"}, **where
        )
    drawing.update_yaxes(side="right", row=1, col=2)  # at the zero line
    drawing.update_layout(
        width=900, height=150 + BAR * n, bargap=0.25, margin={"l": 10, "r": 20, "t": 70, "b": 70}
    )
    drawing.add_annotation(
        text="dotted: what 95 % of random vectors stay within",
        xref="paper",
        yref="paper",
        x=1,
        y=0,
        yshift=-60,
        showarrow=False,
        font_size=11,
    )


def _plain(token: str, longest: int = 24) -> str:
    """Give a token as plotly shows it as it is: no markup, and no formula between dollar signs."""
    return escape(shown_token(token, longest), quote=False).replace("$", "&#36;")

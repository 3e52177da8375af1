"""Pictures of what a steering changes: by offset, text by text, and one text in lines."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_lens_ext.steering.reading.token_shift.strip import GAIN, LOSS, limit, named_tokens, rgb

if TYPE_CHECKING:
    from sae_lens_ext.steering.reading.token_shift.result import TokenShift

_FIRST, _REST, _EVEN = "#D55E00", "#0072B2", "#888888"  # of Okabe and Ito's palette
_FIRST_LABEL = "first generated token"
_NO_TOKEN_GROUND = (
    "#e4e4e4"  # where a text has ended, so that it does not look like a token that is not changed
)
_PER_LINE = 8
_WITH_TEXT = 10
"""Columns up to which cells are wide enough for the text of their tokens."""
_PANELS = (("boosted_delta", "Δp of the most boosted token"), ("kl", "KL(steered‖base), nats"))
_LAYOUT: dict[str, Any] = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 60, "b": 60}}


def offsets_figure(result: "TokenShift") -> go.Figure:
    """Draw the mean of each measure at each offset with its interval, the first token set apart from the rest."""
    table, share = result.by_offset(), result.concentration
    drawing = make_subplots(
        rows=1, cols=2, subplot_titles=[title for _, title in _PANELS], horizontal_spacing=0.08
    )
    for column, (name, _) in enumerate(_PANELS, start=1):
        panel: dict[str, Any] = {"row": 1, "col": column}
        rest, first = table[table["offset"] > 0], table[table["offset"] == 0]
        _add_band(drawing, rest, name, panel)
        _add_points(drawing, rest, name, panel, size=6, color=_REST, symbol="circle", label="the rest")
        _add_points(drawing, first, name, panel, size=13, color=_FIRST, symbol="diamond", label=_FIRST_LABEL)
        drawing.add_vline(x=0.5, line={"color": _EVEN, "dash": "dot", "width": 1}, **panel)
        drawing.update_xaxes(title_text="generated token (0 is the first)", **panel)
        drawing.update_yaxes(rangemode="tozero", **panel)
    said = (
        "Nothing is changed"
        if math.isnan(share.kl.value)
        else f"{share.kl.value:.0%} of KL falls on the first generated token, {share.even:.0%} if it were even"
    )
    drawing.update_layout(**_LAYOUT, height=420, legend={"orientation": "h", "y": -0.22})
    drawing.update_layout(title={"text": said, "font_size": 15}, margin_t=90)
    return drawing


def _add_band(drawing: go.Figure, table: Any, name: str, panel: Mapping[str, Any]) -> None:
    """Draw the interval as a band, run by run: across offsets without an interval there is none."""
    known = table[table[f"{name}_low"].notna()]
    for _, run in known.groupby(known["offset"] - np.arange(len(known))):
        drawing.add_scatter(
            x=[*run["offset"], *run["offset"][::-1]],
            y=[*run[f"{name}_high"], *run[f"{name}_low"][::-1]],
            fill="toself",
            fillcolor=_REST,
            opacity=0.2,
            line_width=0,
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            **panel,
        )


def _add_points(
    drawing: go.Figure, table: Any, name: str, panel: Mapping[str, Any], *, label: str, **marker: Any
) -> None:
    """Draw the means, joined by a line if there are several; that of one offset has its interval as a bar."""
    if len(table) == 0:
        return
    single = label == _FIRST_LABEL and table[f"{name}_low"].notna().all()
    bars = {
        "symmetric": False,
        "array": table[f"{name}_high"] - table[name],
        "arrayminus": table[name] - table[f"{name}_low"],
    }
    drawing.add_scatter(
        x=table["offset"],
        y=table[name],
        error_y=bars if single else None,
        mode="markers" if label == _FIRST_LABEL else "lines+markers",
        line={"color": marker["color"], "width": 2.5},
        marker=marker,
        customdata=table[["n_texts"]],
        hovertemplate="token %{x}: %{y:.4f} (%{customdata[0]} texts)<extra></extra>",
        name=label,
        legendgroup=label,
        showlegend=panel["col"] == 1,
        **panel,
    )


def tokens_figure(result: "TokenShift", rows: Sequence[int]) -> go.Figure:
    """Draw texts below each other, a cell for each generated token."""
    lines = [_cells(result, row) for row in rows]
    width = max(len(line) for line in lines)
    drawing = _grid(result, lines, width, text=width <= _WITH_TEXT)
    drawing.update_layout(height=max(260, 120 + 26 * len(rows)))
    drawing.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[str(row) for row in rows], title_text="text"
    )
    drawing.update_xaxes(title_text="generated token (0 is the first)")
    drawing.add_vline(x=0.5, line={"color": "#1b1b1b", "width": 1})
    return drawing


def strip_figure(result: "TokenShift", row: int) -> go.Figure:
    """Draw one text, its generated tokens in lines."""
    cells = _cells(result, row)
    lines = [cells[start : start + _PER_LINE] for start in range(0, len(cells), _PER_LINE)]
    drawing = _grid(result, lines, min(_PER_LINE, len(cells)), text=True)
    drawing.update_layout(height=max(260, 140 + 40 * len(lines)))
    drawing.update_yaxes(
        tickvals=list(range(len(lines))),
        ticktext=[str(_PER_LINE * i) for i in range(len(lines))],
        title_text="generated token",
    )
    drawing.update_xaxes(showticklabels=False)
    return drawing


def _cells(result: "TokenShift", row: int) -> list[tuple[float, str, str]]:
    """Give Δp, the token as it is shown, and what is said of it, for each generated token of a text."""
    return [
        (token.delta, _plain(token.shown), "<br>".join(map(_plain, token.facts)))
        for token in named_tokens(result, row)
    ]


def _plain(text: str) -> str:
    """Keep plotly from reading a token as mark-up."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _grid(
    result: "TokenShift", lines: Sequence[Sequence[tuple[float, str, str]]], width: int, *, text: bool
) -> go.Figure:
    def filled(which: int, missing: Any) -> list[list[Any]]:
        return [[*(cell[which] for cell in line), *[missing] * (width - len(line))] for line in lines]

    top = limit(result)
    drawing = go.Figure(
        go.Heatmap(
            z=filled(0, None),
            text=filled(1, ""),
            customdata=filled(2, ""),
            texttemplate="%{text}" if text else None,
            textfont={"color": "#1b1b1b", "size": 12},
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
            colorscale=[[0, rgb(LOSS)], [0.5, "#ffffff"], [1, rgb(GAIN)]],
            zmin=-top,
            zmax=top,
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": "Δp of<br>the token"}, "thickness": 12},
        )
    )
    drawing.update_layout(**_LAYOUT, plot_bgcolor=_NO_TOKEN_GROUND)
    drawing.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    drawing.update_xaxes(showgrid=False, zeroline=False)
    return drawing

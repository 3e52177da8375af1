"""Writing a benchmark's JSON and its figure beside the script that made them."""

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from machine import machine


def write_result(script: str, result: dict[str, Any]) -> None:
    """Write `result` and the machine line as JSON beside the script."""
    text = json.dumps({"machine": machine(), **result}, indent=1, allow_nan=False)
    Path(script).with_suffix(".json").write_text(text + "\n")


def write_figure(script: str, figure: go.Figure, *, height: int = 420) -> None:
    """Write a figure as SVG beside the script; this needs `pip install kaleido` and a Chromium."""
    figure.update_layout(template="plotly_white", margin={"l": 70, "r": 30, "t": 60, "b": 60})
    figure.write_image(Path(script).with_suffix(".svg"), width=860, height=height)


def bars(
    title: str, unit: str, values: dict[str, float], low: dict[str, float], high: dict[str, float]
) -> go.Figure:
    """Draw one horizontal bar per name, with its spread."""
    names = list(values)
    error = {
        "type": "data",
        "symmetric": False,
        "array": [high[name] - values[name] for name in names],
        "arrayminus": [values[name] - low[name] for name in names],
    }
    text = [f"{values[name]:,.0f}" for name in names]
    bar = go.Bar(
        x=list(values.values()),
        y=names,
        orientation="h",
        error_x=error,
        text=text,
        textposition="inside",
        insidetextanchor="start",
    )
    figure = go.Figure(bar)
    figure.update_layout(title=title, xaxis_title=unit, yaxis={"autorange": "reversed"})
    return figure

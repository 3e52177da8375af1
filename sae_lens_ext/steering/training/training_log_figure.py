"""Pictures of training logs: one with all that is watched, or the rewards of several."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from sae_lens_ext.steering.training.training_log import TrainingLog

COLOURS = qualitative.Safe
PANELS = {
    "reward": "reward",
    "kl_to_base": "KL to the base (nats a token)",
    "entropy": "entropy (nats a token)",
    "length": "length (tokens)",
}
_COLUMNS = 2
_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "legend": {"orientation": "h", "y": -0.2},
    "margin": {"l": 60, "r": 20, "t": 50, "b": 60},
}


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Give the mean of each value and the `window` − 1 before it, of fewer at the beginning, [n]."""
    return np.array([values[max(0, i - window) : i].mean() for i in range(1, len(values) + 1)])


def figure(log: TrainingLog, window: int) -> go.Figure:
    """Draw what a log has of `PANELS`, see `TrainingLog.plot`."""
    there = {
        name: title for name, title in PANELS.items() if any(row.get(name) is not None for row in log.rows)
    }
    n_rows = -(-len(there) // _COLUMNS)
    drawing = make_subplots(
        rows=n_rows, cols=_COLUMNS, subplot_titles=list(there.values()), horizontal_spacing=0.09
    )
    for i, (name, colour) in enumerate(zip(there, COLOURS, strict=False)):
        panel: dict[str, Any] = {"row": i // _COLUMNS + 1, "col": i % _COLUMNS + 1}
        if name == "reward":
            _add_reward(drawing, log, "reward", colour, window, **panel)
            _add_control(drawing, log, window, **panel)
        else:
            _add_line(drawing, log.steps, log.values(name), PANELS[name], colour, showlegend=False, **panel)
        drawing.update_xaxes(title_text="step", **panel)
    drawing.update_layout(**_LAYOUT, height=60 + 280 * n_rows)
    return drawing


def compared(logs: Mapping[str, TrainingLog], window: int) -> go.Figure:
    """Draw the reward of each log, see `plot_training_logs`."""
    drawing = go.Figure()
    for i, (name, log) in enumerate(logs.items()):
        _add_reward(drawing, log, escape(name, quote=False), COLOURS[i % len(COLOURS)], window)
    drawing.update_xaxes(title_text="step")
    drawing.update_yaxes(title_text=f"reward, and its mean over {window} steps")
    drawing.update_layout(**_LAYOUT, height=420)
    return drawing


def _add_reward(
    drawing: go.Figure, log: TrainingLog, name: str, colour: str, window: int, **panel: Any
) -> None:
    reward, group = log.values("reward"), {"legendgroup": name}
    _add_line(drawing, log.steps, reward, name, colour, thin=True, showlegend=False, **group, **panel)
    _add_line(drawing, log.steps, running_mean(reward, window), name, colour, **group, **panel)


def _add_control(drawing: go.Figure, log: TrainingLog, window: int, **panel: Any) -> None:
    """Draw the reward that was trained on, if it was another."""
    if not all(row.get("trained_reward") is not None for row in log.rows):
        return
    trained = log.values("trained_reward")
    if np.allclose(trained, log.values("reward")):
        return
    means = running_mean(trained, window)
    _add_line(drawing, log.steps, means, "trained on (control)", "#888888", dash="dot", **panel)


def _add_line(
    drawing: go.Figure,
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    name: str,
    colour: str,
    *,
    thin: bool = False,
    dash: str = "solid",
    **others: Any,
) -> None:
    known = ~np.isnan(values)
    drawing.add_scatter(
        x=steps[known],
        y=values[known],
        mode="lines" if known.sum() > 1 else "markers",
        line={"color": colour, "width": 1 if thin else 3, "dash": dash},
        opacity=0.4 if thin else 1,
        name=name,
        **others,
    )

"""Pictures of a training's loss, and of a model's loss over sequences."""

from typing import Any

import plotly.graph_objects as go
from plotly.colors import qualitative

from sae_lens_ext.lime.training.loss_result import LanguageModelLoss
from sae_lens_ext.lime.training.result import LanguageModelTraining

_LOSS, _VALIDATION = qualitative.Safe[0], qualitative.Safe[1]
_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "legend": {"x": 0.99, "y": 0.99, "xanchor": "right", "yanchor": "top"},
    "margin": {"l": 60, "r": 20, "t": 50, "b": 60},
    "height": 420,
}


def loss_curve(result: LanguageModelTraining, window: int) -> go.Figure:
    """Draw a training, see `LanguageModelTraining.plot`."""
    drawing = go.Figure()
    drawing.add_scatter(
        x=result.tokens,
        y=result.losses,
        mode="lines",
        line={"color": _LOSS, "width": 1},
        opacity=0.5,
        name="each step",
    )
    drawing.add_scatter(
        x=result.tokens,
        y=result.smoothed(window),
        mode="lines",
        line={"color": _LOSS, "width": 3},
        name=f"mean of the last {window} steps",
    )
    if len(result.validation_steps):
        drawing.add_scatter(
            x=result.tokens[result.validation_steps - 1],
            y=result.validation_losses,
            mode="lines+markers",
            line={"color": _VALIDATION, "width": 2, "dash": "dot"},
            marker={"size": 9},
            name="validation",
        )
    drawing.update_xaxes(title_text="tokens read")
    drawing.update_yaxes(title_text="loss (nats per token)")
    drawing.update_layout(**_LAYOUT, title=f"Loss over {len(result.losses)} steps")
    return drawing


def spread(result: LanguageModelLoss) -> go.Figure:
    """Draw a model's loss over sequences, see `LanguageModelLoss.plot`."""
    drawing = go.Figure()
    drawing.add_histogram(x=result.losses / result.counts, marker_color=_LOSS, showlegend=False)
    drawing.add_vline(
        x=result.loss,
        line={"color": "#555555", "dash": "dot"},
        annotation_text=f"mean over predictions {result.loss:.3f}",
    )
    drawing.update_xaxes(title_text="loss of a sequence (nats per token)")
    drawing.update_yaxes(title_text="sequences")
    drawing.update_layout(**_LAYOUT, title=f"Loss of {len(result.counts)} sequences")
    return drawing

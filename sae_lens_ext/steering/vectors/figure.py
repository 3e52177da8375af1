"""Steering vectors as a table and a picture: how long each is, by layer."""

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from sae_lens_ext.steering.vectors.steering_vectors import SteeringVectors


def frame(vectors: "SteeringVectors") -> "pd.DataFrame":
    """Give a data frame with a row per layer; see `SteeringVectors.to_frame`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    before: torch.Tensor | None = None
    for layer in vectors:
        vector = vectors[layer]
        largest = int(vector.abs().argmax())
        rows.append(
            {
                "layer": layer,
                "norm": vectors.norms[layer],
                "largest_value": float(vector[largest]),
                "largest_coordinate": largest,
                "cosine_to_previous": _cosine(before, vector),
            }
        )
        before = vector
    return pd.DataFrame(rows)


def figure(vectors: "SteeringVectors") -> "go.Figure":
    """Draw a bar of the norm for each layer."""
    import plotly.graph_objects as go

    norms = vectors.norms
    drawing = go.Figure(
        go.Bar(
            x=list(norms),
            y=list(norms.values()),
            hovertemplate="layer %{x}<br>norm %{y:.4g}<extra></extra>",
            marker_color="#4477aa",
        )
    )
    drawing.update_xaxes(title_text="layer", dtick=1 if len(norms) <= 32 else None)
    drawing.update_yaxes(title_text="‖s‖, units of the residual stream", rangemode="tozero")
    drawing.update_layout(
        template="plotly_white",
        height=360,
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        title="Steering vectors",
    )
    return drawing


def _cosine(first: torch.Tensor | None, second: torch.Tensor) -> float:
    """NaN where there is no first, or one of them is zero."""
    if first is None or not first.any() or not second.any():
        return float("nan")
    return float(torch.cosine_similarity(first.double(), second.double(), dim=0))

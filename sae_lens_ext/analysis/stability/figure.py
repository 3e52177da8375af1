"""The picture of a StabilityReport."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from sae_lens_ext.analysis.stability.report import EXCLUDED, MIDDLE, STABLE, UNSTABLE

if TYPE_CHECKING:
    from sae_lens_ext.analysis.stability.report import StabilityReport

COLOURS = {
    STABLE: qualitative.Safe[3],
    MIDDLE: qualitative.Safe[2],
    UNSTABLE: qualitative.Safe[1],
    EXCLUDED: "#bbbbbb",
}
NULL_COLOUR = "#888888"
MAX_POINTS = 5000
"""Latents drawn in the second panel, at most; more make a picture slow and no clearer."""


def figure(report: "StabilityReport") -> go.Figure:
    """Draw the distribution of p̂ with error bars over anchors beside its null; and, if rates are known, p̂ against the firing rate."""
    has_rates = report.firing_rates is not None
    titles = ["how often latents come back"] + ["and how often they fire"] * has_rates
    drawing = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.1)
    _add_histogram(drawing, report)
    if has_rates:
        _add_scatter(drawing, report)
    drawing.update_layout(
        template="plotly_white",
        barmode="group",
        legend={"orientation": "h", "y": -0.22, "itemsizing": "constant"},
        margin={"l": 60, "r": 20, "t": 50, "b": 60},
        height=440,
    )
    return drawing


def _add_histogram(drawing: go.Figure, report: "StabilityReport") -> None:
    """Bars over the values that p̂ can take: every share of the other SAEs."""
    n = len(report.names) - 1
    real = [
        _shares(np.asarray(p[kept]), n) for p, kept in zip(report.reappearance, report.included, strict=True)
    ]
    null = [_shares(np.asarray((c >= report.threshold).float().mean(dim=0)), n) for c in report.null_cosines]
    values = [f"{i}/{n}" if 0 < i < n else str(i // n) for i in range(n + 1)]
    for name, shares, colour in (
        ("latents that count", real, qualitative.Safe[4]),
        ("null: rotated decoders", null, NULL_COLOUR),
    ):
        drawing.add_bar(
            x=values,
            y=np.mean(shares, axis=0),
            error_y={"array": np.std(shares, axis=0, ddof=1)},
            name=name,
            marker_color=colour,
            row=1,
            col=1,
        )
    drawing.update_xaxes(title_text="p̂, share of the other SAEs", type="category", row=1, col=1)
    drawing.update_yaxes(title_text="share of latents", tickformat=".0%", row=1, col=1)


def _shares(p_hat: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(np.rint(p_hat * n).astype(int), minlength=n + 1) / max(1, len(p_hat))


def _add_scatter(drawing: go.Figure, report: "StabilityReport") -> None:
    """A point for each latent that fires, spread a little in height, as p̂ takes few values."""
    frame = report.to_frame()
    frame = frame[frame["firing_rate"] > 0]
    rng = np.random.default_rng(0)
    if len(frame) > MAX_POINTS:
        frame = frame.iloc[np.sort(rng.choice(len(frame), MAX_POINTS, replace=False))]
    spread = min(0.15, 0.35 / (len(report.names) - 1))
    for label, colour in COLOURS.items():
        own = frame[frame["label"] == label]
        drawing.add_scatter(
            x=own["firing_rate"],
            y=own["reappearance"] + rng.uniform(-spread, spread, len(own)),
            mode="markers",
            marker={"color": colour, "size": 4, "opacity": 0.5},
            name=label,
            customdata=np.array(
                [
                    [escape(sae, quote=False), latent]
                    for sae, latent in zip(own["sae"], own["latent"], strict=True)
                ],
                dtype=object,
            )
            if len(own)
            else None,
            hovertemplate="%{customdata[0]}, latent %{customdata[1]}<br>fires on %{x:.2%} of tokens<extra></extra>",
            row=1,
            col=2,
        )
    drawing.update_xaxes(title_text="firing rate, share of tokens", type="log", tickformat="~%", row=1, col=2)
    drawing.update_yaxes(
        title_text="p̂ (spread in height)",
        range=[-0.2, 1.2],
        tickvals=[0, 0.25, 0.5, 0.75, 1],
        row=1,
        col=2,
    )

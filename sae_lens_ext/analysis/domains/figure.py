"""The picture of a DomainReport."""

from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from sae_lens_ext.analysis.domains.report import DomainReport


def figure(report: "DomainReport") -> go.Figure:
    """Draw two groups of bars: explained variance (more is better), increase of cross-entropy (less is better)."""
    drawing = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=("explained variance, higher is better", "cross-entropy added, nats, lower is better"),
        horizontal_spacing=0.1,
    )
    domains = list(report.domains)
    for i, sae in enumerate(report.saes):
        rows = [report.at(sae, domain) for domain in domains]
        for column, values in enumerate(([r.ev for r in rows], [r.ce_with - r.ce for r in rows]), start=1):
            drawing.add_bar(
                x=[escape(domain, quote=False) for domain in domains],
                y=values,
                name=escape(sae, quote=False),
                legendgroup=escape(sae, quote=False),
                showlegend=column == 1,
                marker_color=qualitative.Safe[i % len(qualitative.Safe)],
                text=[f"{value:.2f}" for value in values],
                textposition="outside",
                cliponaxis=False,
                row=1,
                col=column,
            )
    drawing.update_layout(
        barmode="group",
        template="plotly_white",
        legend={"orientation": "h", "y": -0.15},
        margin={"l": 50, "r": 20, "t": 50, "b": 40},
        height=420,
    )
    return drawing

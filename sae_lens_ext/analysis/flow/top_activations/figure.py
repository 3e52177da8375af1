"""The picture of a TopActivations."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import qualitative

if TYPE_CHECKING:
    from sae_lens_ext.analysis.flow.top_activations.result import TopActivations


def figure(result: "TopActivations") -> go.Figure:
    """Draw a box for each hook: the firing rates of its features that fire, and how many do not."""
    drawing = go.Figure()
    for name, site in result.sites.items():
        rates = site.fired[site.fired > 0].double() / result.n_tokens
        silent = 1 - len(rates) / len(site.features)
        drawing.add_box(
            y=rates.numpy(),
            name=f"{name}<br>{silent:.0%} never fire",
            marker_color=qualitative.Safe[4],
            boxpoints=False,
            showlegend=False,
        )
    drawing.update_yaxes(title_text="firing rate, share of tokens", type="log", tickformat="~%")
    drawing.update_layout(template="plotly_white", margin={"l": 60, "r": 20, "t": 30, "b": 60}, height=440)
    return drawing

"""The picture of a StabilityProbe."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import qualitative

from sae_lens_ext.analysis.stability.geometry.probe_result import OTHERS, OTHERS_SEEN, OWN, SHUFFLED

if TYPE_CHECKING:
    from sae_lens_ext.analysis.stability.geometry.probe_result import StabilityProbe

_SHOWN = {"f1": "F1", "balanced_f1": "F1, classes equally common", "auc": "AUC"}
_KINDS = {
    OTHERS: ("other seeds, features held out", qualitative.Safe[1]),
    OTHERS_SEEN: ("other seeds, near-copies seen", qualitative.Safe[2]),
    OWN: ("the seed it was learnt on", qualitative.Safe[8]),
    SHUFFLED: ("other seeds, held out, shuffled labels", qualitative.Safe[10]),
}


def figure(probe: "StabilityProbe") -> go.Figure:
    """Draw a group of bars for each measure, with deviations over the SAEs learnt on, and what saying "unstable" always gives."""
    drawing = go.Figure()
    for kind, (name, colour) in _KINDS.items():
        estimates = [probe.measure(measure, kind) for measure in _SHOWN]
        drawing.add_bar(
            x=list(_SHOWN.values()),
            y=[mean for mean, _ in estimates],
            error_y={"type": "data", "array": [sd for _, sd in estimates]},
            name=name,
            marker_color=colour,
            text=[f"{mean:.2f}" for mean, _ in estimates],
            textposition="inside",
            insidetextanchor="start",
        )
    drawing.add_scatter(
        x=list(_SHOWN.values()),
        y=[probe.measure("always_unstable_f1")[0], 2 / 3, 0.5],
        name="“unstable” to everything",
        mode="markers",
        marker={"symbol": "line-ew", "size": 130, "line": {"width": 2, "color": "black"}},
    )
    drawing.update_layout(
        barmode="group",
        template="plotly_white",
        title="telling unstable from stable latents by their decoder rows",
        yaxis={"range": [0, 1.05]},
        legend={"orientation": "h", "y": -0.12},
        margin={"l": 50, "r": 20, "t": 60, "b": 40},
        height=420,
    )
    return drawing

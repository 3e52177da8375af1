"""The picture of a SubspaceReport."""

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from sae_lens_ext.analysis.stability.figure import COLOURS, NULL_COLOUR
from sae_lens_ext.analysis.stability.geometry.subspaces_result import CLASSES, GROUPS, NO_COPY
from sae_lens_ext.analysis.stability.report import STABLE, UNSTABLE

if TYPE_CHECKING:
    import torch

    from sae_lens_ext.analysis.stability.geometry.subspaces_result import SubspaceReport

_COLOURS = {
    UNSTABLE: COLOURS[UNSTABLE],
    STABLE: COLOURS[STABLE],
    "any": qualitative.Safe[4],
    "random": NULL_COLOUR,
}


def figure(report: "SubspaceReport") -> go.Figure:
    """Draw energy in other SAEs' classes against r, bands being deviations over anchors; and effective rank by group."""
    drawing = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.68, 0.32],
        subplot_titles=(
            f"energy of other seeds' latents in the top-r subspace of {report.n_rows:,} rows",
            "effective rank / d",
        ),
        horizontal_spacing=0.09,
    )
    for label in CLASSES:
        own = {"dash": "dot", "color": _COLOURS[label], "width": 1.5}
        curve = report.energy(label, label)
        _add_band(drawing, report, curve, _COLOURS[label])
        _add_line(drawing, report, curve, f"{label} → {label}", {"color": _COLOURS[label], "width": 3})
        _add_line(drawing, report, report.ceilings[label], f"{label}: ceiling", own)
    no_copy = {"dash": "dashdot", "color": _COLOURS[UNSTABLE], "width": 2}
    _add_line(drawing, report, report.energy(UNSTABLE, NO_COPY), f"{UNSTABLE} → {NO_COPY}", no_copy)
    for source, target in ((UNSTABLE, STABLE), (STABLE, UNSTABLE)):
        cross = {"dash": "dash", "color": _COLOURS[source], "width": 1.5}
        _add_line(drawing, report, report.energy(source, target), f"{source} → {target}", cross)
    for group in ("any", "random"):
        line = {"color": _COLOURS[group], "width": 1.5}
        _add_line(drawing, report, report.energy(group, UNSTABLE), f"{group} → {UNSTABLE}", line)
    chance = {"dash": "dot", "color": "black", "width": 1}
    _add_line(drawing, report, report.chance[None], "r / d", chance)
    estimates = [report.effective_rank(group) for group in GROUPS]
    drawing.add_bar(
        x=list(GROUPS),
        y=[mean for mean, _ in estimates],
        error_y={"type": "data", "array": [sd for _, sd in estimates]},
        text=[f"{mean:.2f}" for mean, _ in estimates],
        textposition="inside",
        insidetextanchor="middle",
        marker_color=[_COLOURS[group] for group in GROUPS],
        showlegend=False,
        row=1,
        col=2,
    )
    drawing.update_xaxes(
        type="log",
        title="r",
        tickvals=list(report.ranks),
        ticktext=list(map(str, report.ranks)),
        row=1,
        col=1,
    )
    drawing.update_yaxes(range=[0, 1.02], row=1, col=1)
    drawing.update_yaxes(range=[0, 1.02], row=1, col=2)
    drawing.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "y": -0.18},
        margin={"l": 50, "r": 20, "t": 50, "b": 40},
        height=480,
    )
    return drawing


def _add_line(
    drawing: go.Figure, report: "SubspaceReport", by_anchor: "torch.Tensor", name: str, line: dict[str, Any]
) -> None:
    """Add the mean over anchors of [S, R]."""
    mean = by_anchor.mean(dim=0).tolist()
    drawing.add_scatter(x=list(report.ranks), y=mean, name=name, mode="lines", line=line, row=1, col=1)


def _add_band(drawing: go.Figure, report: "SubspaceReport", by_anchor: "torch.Tensor", colour: str) -> None:
    """Fill between a deviation below the mean over anchors of [S, R] and one above."""
    mean, sd = by_anchor.mean(dim=0), by_anchor.std(dim=0)
    ranks = list(report.ranks)
    drawing.add_scatter(
        x=ranks + ranks[::-1],
        y=(mean + sd).tolist() + (mean - sd).flip(0).tolist(),
        fill="toself",
        fillcolor=colour,
        opacity=0.25,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=1,
    )

"""The picture of a DeactivationResult."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from sae_lens_ext.analysis.flow.deactivation.result import DeactivationResult

_MEASURES = ("mean_activation_change", "success")
_TITLES = ("activation change, 1 is gone", "share of targets deactivated")


def figure(result: "DeactivationResult", which: str) -> go.Figure:
    """Draw a bar for each method and kind of predecessor, with its 95 % interval; the number of pairs is in the hover text.

    Raises:
        ValueError: `which` is neither "own" nor "common".
    """
    if which not in ("own", "common"):
        raise ValueError(
            f"The figure was asked for the set {which!r}. Give 'own', each method where its predecessor is active, or 'common', where "
            "every method's is."
        )
    drawing = make_subplots(rows=1, cols=2, subplot_titles=_TITLES, horizontal_spacing=0.1)
    for i, kind in enumerate(result.kinds):
        rows = [
            row
            for row in result.rows
            if row.layer is None and (row.set, row.predecessor) == (which, kind) and row.n_pairs > 0
        ]
        for column, measure in enumerate(_MEASURES, start=1):
            values = [getattr(row, measure) for row in rows]
            low, high = ([getattr(row, f"{measure}_{end}") for row in rows] for end in ("low", "high"))
            drawing.add_bar(
                x=[row.method for row in rows],
                y=values,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [max(b - v, 0.0) for v, b in zip(values, high, strict=True)],
                    "arrayminus": [max(v - a, 0.0) for v, a in zip(values, low, strict=True)],
                },
                customdata=[row.n_pairs for row in rows],
                hovertemplate="%{x}: %{y:.3f} (%{customdata} pairs)",
                name=kind,
                legendgroup=kind,
                showlegend=column == 1,
                marker_color=qualitative.Safe[i % len(qualitative.Safe)],
                row=1,
                col=column,
            )
    drawing.update_layout(
        barmode="group",
        template="plotly_white",
        title_text=f"predecessors deactivated, {'targets common to all methods' if which == 'common' else 'each method on its own targets'}",
        legend={"orientation": "h", "y": -0.25},
        margin={"l": 50, "r": 20, "t": 80, "b": 60},
        height=440,
    )
    return drawing

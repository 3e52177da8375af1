"""The pictures of a RouterMap: shares of layers, and signed weights of heads."""

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

if TYPE_CHECKING:
    from sae_lens_ext.lime.reading.maps.result import RouterMap

SIDE, LARGEST_CELL = 640, 60
"""Pixels of the map's side, about, and of a cell, at most."""
WRITTEN_UP_TO = 12
"""Layers up to which shares are written into the cells."""
TICKS = 16
"""Layers named on an axis, at most."""
NAMED_HEADS = 24
"""Heads up to which each is named on the axes, and not only the layers."""
NO_WEIGHT, BOUNDARY = "#e2e2e2", "#b4b4b4"


def layer_figure(result: "RouterMap") -> go.Figure:
    """Draw shares, target layer by source layer; blank where there is no weight."""
    n = result.n_layers
    shares = result.by_layer.numpy().copy()
    shares[np.triu_indices(n, 0 if result.off_diagonal else 1)] = np.nan
    written = n <= WRITTEN_UP_TO
    # The fewer sources there are, the larger are their shares: in the first rows they say nothing, and would leave no colours for the others.
    darkest = float(result.by_layer[0 if written else n // 2 :].max())
    clipped = darkest < float(result.by_layer.max())
    drawing = go.Figure()
    drawing.add_heatmap(
        z=shares,
        x=list(range(n)),
        y=list(range(n)),
        zmin=0,
        zmax=max(darkest, 1e-12),
        colorscale="Blues",
        xgap=1,
        ygap=1,
        texttemplate="%{z:.2f}" if written else None,
        hovertemplate="layer %{y} ← layer %{x}<br>share %{z:.4f}<extra></extra>",
        hoverongaps=False,
        colorbar=_colour_bar("share"),
    )
    what = "mean |R|, share of the other layers" if result.off_diagonal else "mean |R|, share of each layer"
    if clipped:
        what += f" (darkest: {darkest:.2g} and above)"
    step = -(-n // TICKS)
    drawing.update_xaxes(dtick=step, tick0=0)
    drawing.update_yaxes(dtick=step, tick0=0)
    return _laid_out(drawing, what, n, "layer")


def head_figure(result: "RouterMap") -> go.Figure:
    """Draw signed weights, a row per target head and a column per source head, lines between the layers."""
    n_layers, n_heads = result.n_layers, result.n_kv_heads
    n = n_layers * n_heads
    weights = np.full((n, n), np.nan)
    for layer, weight in result.by_head.items():
        rows = slice(layer * n_heads, (layer + 1) * n_heads)
        shown = weight[:, :layer] if result.off_diagonal else weight
        weights[rows, : shown.shape[1] * n_heads] = shown.flatten(start_dim=1).numpy()
    largest = float(np.abs(weights[np.isfinite(weights)]).max(initial=1e-12))
    names = [f"layer {i // n_heads} head {i % n_heads}" for i in range(n)]
    drawing = go.Figure()
    drawing.add_heatmap(
        z=weights,
        x=list(range(n)),
        y=list(range(n)),
        customdata=[[[target, source] for source in names] for target in names],
        zmin=-largest,
        zmax=largest,
        colorscale="RdBu",
        hovertemplate="%{customdata[0]} ← %{customdata[1]}<br>R = %{z:.4f}<extra></extra>",
        hoverongaps=False,
        colorbar=_colour_bar("R"),
    )
    for layer in range(1, n_layers):
        at, line = layer * n_heads - 0.5, {"color": BOUNDARY, "width": 0.75}
        own = 0 if result.off_diagonal else n_heads
        drawing.add_shape(type="line", x0=-0.5, x1=at + own, y0=at, y1=at, line=line)
        drawing.add_shape(type="line", x0=at, x1=at, y0=at - own, y1=n - 0.5, line=line)
    layers = list(range(0, n_layers, -(-n_layers // TICKS)))
    ticks: dict[str, Any] = {
        "tickvals": [layer * n_heads + (n_heads - 1) / 2 for layer in layers],
        "ticktext": [str(layer) for layer in layers],
    }
    unit = f"layer, {n_heads} heads each"
    if n <= NAMED_HEADS:
        ticks = {
            "tickvals": list(range(n)),
            "ticktext": [f"{i // n_heads}.{i % n_heads}" for i in range(n)],
        }
        unit = "layer.head"
    drawing.update_xaxes(**ticks)
    drawing.update_yaxes(**ticks)
    what = "signed weights R of the heads" + (", own layers left out" if result.off_diagonal else "")
    return _laid_out(drawing, what, n, unit)


def _laid_out(drawing: go.Figure, title: str, cells: int, unit: str) -> go.Figure:
    side = cells * min(LARGEST_CELL, max(3, SIDE // cells))
    drawing.update_xaxes(title_text=f"source {unit}", showgrid=False, zeroline=False, constrain="domain")
    drawing.update_yaxes(
        title_text=f"target {unit}",
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        scaleanchor="x",
        constrain="domain",
    )
    return drawing.update_layout(
        template="plotly_white",
        plot_bgcolor=NO_WEIGHT,
        title={"text": title, "font_size": 15, "x": 0.01},
        width=max(520, side + 160),
        height=max(300, side + 110),
        margin={"l": 60, "r": 90, "t": 50, "b": 55},
    )


def _colour_bar(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "side": "top"}, "thickness": 12}

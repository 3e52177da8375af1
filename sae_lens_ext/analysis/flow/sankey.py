"""The picture of a FlowGraph: a Sankey diagram, layers from left to right, links as wide as their score."""

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from sae_lens_ext.analysis.flow.colours import MODULE_COLOURS, ORIGIN_COLOURS
from sae_lens_ext.analysis.flow.page.layout import LANES, Layout, layout, start_nodes
from sae_lens_ext.analysis.flow.sites import KINDS

if TYPE_CHECKING:
    from sae_lens_ext.analysis.flow.graph import FlowGraph

MAX_EDGES = 300
"""Edges drawn at most: of more, a Sankey diagram is a blot."""
NO_PREDECESSORS = "no predecessors"
_START_COLOUR = "#dddddd"
_TOP_TOKENS = 5
_LAYERS_WITH_NAMES = 8
_COLOURS = {
    **ORIGIN_COLOURS,
    NO_PREDECESSORS: _START_COLOUR,
    **{f"{'MLP' if kind == 'mlp' else kind} feature": colour for kind, colour in MODULE_COLOURS.items()},
}


def sankey(graph: "FlowGraph", *, max_edges: int = MAX_EDGES) -> go.Figure:
    """Draw a flow graph: features as nodes coloured by origin, columns by layer, links as wide as their cosine.

    Args:
        graph: The graph. One without edges gives an empty diagram that says so.
        max_edges: Of more edges only so many are drawn, the strongest; the title says how many there are.

    Raises:
        ValueError: `max_edges` is less than 1.
    """
    if max_edges < 1:
        raise ValueError(f"sankey was given max_edges = {max_edges}. Give at least 1.")
    drawing = go.Figure()
    drawing.update_layout(
        template="plotly_white",
        height=560,
        margin={"l": 20, "r": 20, "t": 60, "b": 40},
        legend={"orientation": "h", "y": -0.1},
        xaxis={"visible": False},
        yaxis={"visible": False},
    )
    n_edges = len(graph.edge_score)
    if n_edges == 0:
        drawing.add_annotation(
            text=_nothing(graph), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
        )
        return drawing
    strongest = np.argsort(-np.asarray(graph.edge_score), kind="stable")[:max_edges]
    edges = np.sort(strongest).tolist()
    source, target = np.asarray(graph.edge_source), np.asarray(graph.edge_target)
    nodes = sorted({*source[edges].tolist(), *target[edges].tolist()})
    placed = layout(graph)
    _add_diagram(drawing, graph, placed, nodes, edges)
    _add_legend(drawing, graph, nodes)
    _add_layers(drawing, placed)
    title = (
        f"{n_edges:,} edges" if n_edges <= max_edges else f"the strongest {max_edges:,} of {n_edges:,} edges"
    )
    height = min(1400, max(480, 200 + 26 * sum(placed.heights)))
    drawing.update_layout(title=f"Feature flow, {title}", height=height)
    return drawing


def _add_diagram(
    drawing: go.Figure, graph: "FlowGraph", placed: Layout, nodes: list[int], edges: list[int]
) -> None:
    position = {node: i for i, node in enumerate(nodes)}
    source, target = np.asarray(graph.edge_source), np.asarray(graph.edge_target)
    score, quantile = np.asarray(graph.edge_score), np.asarray(graph.edge_null_quantile)
    starts = set(start_nodes(graph))
    colours = [_COLOURS[_class(graph, node)] for node in nodes]
    drawing.add_sankey(
        arrangement="snap",
        node={
            "label": [_label(placed, graph, node, is_start=node in starts) for node in nodes],
            "color": colours,
            "x": [_x(placed, node) for node in nodes],
            "y": [_y(placed, node) for node in nodes],
            "pad": 14,
            "thickness": 12,
            "line": {"width": 0},
            "customdata": [_hover(graph, node, is_start=node in starts) for node in nodes],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
        link={
            "source": [position[s] for s in source[edges].tolist()],
            "target": [position[t] for t in target[edges].tolist()],
            "value": score[edges].astype(float).tolist(),
            "color": [_faint(colours[position[t]]) for t in target[edges].tolist()],
            "customdata": [
                f"{_name(graph, s)} → {_name(graph, t)}<br>cosine {score[e]:.3f}, null quantile {quantile[e]:.4g}"
                for e, s, t in zip(edges, source[edges].tolist(), target[edges].tolist(), strict=True)
            ],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    )


def _add_legend(drawing: go.Figure, graph: "FlowGraph", nodes: list[int]) -> None:
    """A Sankey trace has no legend: points that are nowhere make its entries."""
    drawn = {_class(graph, node) for node in nodes}
    for name, colour in _COLOURS.items():
        if name in drawn:
            marker: dict[str, Any] = {"color": colour, "size": 12, "symbol": "square"}
            drawing.add_scatter(
                x=[None], y=[None], mode="markers", marker=marker, name=name, hoverinfo="skip"
            )


def _add_layers(drawing: go.Figure, placed: Layout) -> None:
    every = -(-len(placed.layers) // 30)
    for column, layer in list(enumerate(placed.layers))[::every]:
        drawing.add_annotation(
            text=f"layer {layer}" if len(placed.layers) <= 14 else str(layer),
            x=(column + 0.75) / len(placed.layers),
            y=-0.02,
            xref="paper",
            yref="paper",
            yanchor="top",
            showarrow=False,
            font={"size": 11, "color": "#666666"},
        )


def _class(graph: "FlowGraph", node: int) -> str:
    hook, _ = graph.nodes[node]
    kind = graph.site(hook).kind
    if kind != "residual":
        return f"{'MLP' if kind == 'mlp' else kind} feature"
    return graph.origins[node] or NO_PREDECESSORS


def _name(graph: "FlowGraph", node: int) -> str:
    hook, index = graph.nodes[node]
    return f"{graph.site(hook).short}/{index}"


def _label(placed: Layout, graph: "FlowGraph", node: int, *, is_start: bool) -> str:
    """Name a feature in full where there is room; elsewhere its column and colour say the site."""
    name = _name(graph, node) if len(placed.layers) <= _LAYERS_WITH_NAMES else str(graph.nodes[node][1])
    return f"<b>{name}</b>" if is_start else name


def _x(placed: Layout, node: int) -> float:
    """Modules stand before the stream they write into, as on the page."""
    offset = 0.75 if LANES[placed.lane[node]] == "residual" else 0.25
    return min(0.999, max(0.001, (placed.column[node] + offset) / len(placed.layers)))


def _y(placed: Layout, node: int) -> float:
    row = sum(placed.heights[: placed.lane[node]]) + placed.row[node] + 0.5
    return min(0.999, max(0.001, row / sum(placed.heights)))


def _hover(graph: "FlowGraph", node: int, *, is_start: bool) -> str:
    hook, index = graph.nodes[node]
    lines = [f"<b>{hook}, {index}</b>{', start' if is_start else ''}", _class(graph, node)]
    scores = np.asarray(graph.node_scores[node]).tolist()
    known = [f"s({kind[0].upper()}) {s:.3f}" for kind, s in zip(KINDS, scores, strict=True) if np.isfinite(s)]
    lines += [", ".join(known)] if known else []
    top = graph.activations
    if top is not None and (hook, index) in top:
        tokens = [escape(repr(token)) for token, _ in top.tokens(hook, index, n=_TOP_TOKENS)]
        lines.append("fires on " + ", ".join(tokens) if tokens else "never fires on the texts read")
    return "<br>".join(lines)


def _faint(colour: str) -> str:
    red, green, blue = hex_to_rgb(colour)
    return f"rgba({red}, {green}, {blue}, 0.4)"


def _nothing(graph: "FlowGraph") -> str:
    starts = ", ".join(f"{graph.site(hook).short}/{index}" for hook, index in graph.starts[:5])
    of = f" of {starts}{', …' if len(graph.starts) > 5 else ''}" if starts else ""
    return f"No edges{of}: no match passed the thresholds.<br>Trace with lower ones, or with thresholds=None."

"""What the page of a flow graph knows: the graph as JSON, column by column."""

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from sae_lens_ext.analysis.flow.page.layout import LANES, layout, start_nodes

if TYPE_CHECKING:
    from sae_lens_ext.analysis.flow.graph import FlowGraph
    from sae_lens_ext.analysis.flow.top_activations import TopActivations
    from sae_lens_ext.analysis.top_contexts import Context

TOP_TOKENS = 10
CONTEXTS = 5
CONTEXT_TOKENS = 64
"""Of a longer context the page shows so many tokens around the peak."""
NODES_WITH_ALL_CONTEXTS = 2000
"""A graph with more nodes shows the strongest context of each only, so that the file stays small."""


def payload(graph: "FlowGraph", title: str) -> dict[str, Any]:
    """Give all that the page shows, in what JSON knows; NaN becomes None."""
    placed = layout(graph)
    return {
        "title": title,
        "layers": list(placed.layers),
        "lanes": [{"kind": kind, "rows": rows} for kind, rows in zip(LANES, placed.heights, strict=True)],
        "hooks": [
            {
                "name": site.hook_name,
                "layer": site.layer,
                "kind": site.kind,
                "short": site.short,
                "neuronpedia": _address(graph.neuronpedia_ids.get(site.hook_name)),
            }
            for site in placed.sites
        ],
        "nodes": {
            "hook": np.asarray(graph.node_hook).tolist(),
            "index": np.asarray(graph.node_index).tolist(),
            "origin": np.asarray(graph.node_origin).tolist(),
            "scores": [_numbers(row) for row in np.asarray(graph.node_scores)],
            "column": list(placed.column),
            "lane": list(placed.lane),
            "row": list(placed.row),
        },
        "starts": start_nodes(graph),
        "edges": {
            "source": np.asarray(graph.edge_source).tolist(),
            "target": np.asarray(graph.edge_target).tolist(),
            "score": _numbers(graph.edge_score),
            "quantile": _numbers(graph.edge_null_quantile),
        },
        "thresholds": dict(graph.thresholds),
        "missing": list(graph.missing),
        "provenance": _plain(graph.provenance),
        "uses": None if graph.activations is None else _uses(graph, graph.activations),
    }


def to_json(content: dict[str, Any]) -> str:
    """Write JSON that is harmless inside a `<script>` element, whatever strings are in it."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _numbers(values: Any) -> list[float | None]:
    """Give the shortest decimals that are these float32 numbers, so that 0.3 stays 0.3; None for NaN and infinity."""
    return [float(str(v)) if np.isfinite(v) else None for v in np.asarray(values, dtype=np.float32).ravel()]


def _address(neuronpedia_id: str | None) -> str | None:
    return f"https://www.neuronpedia.org/{quote(neuronpedia_id)}/" if neuronpedia_id else None


def _uses(graph: "FlowGraph", activations: "TopActivations") -> list[dict[str, Any] | None]:
    """Give by node what it fires on; None where that was not measured."""
    n_contexts = CONTEXTS if len(graph.nodes) <= NODES_WITH_ALL_CONTEXTS else 1
    return [
        _use(activations, hook, index, n_contexts) if (hook, index) in activations else None
        for hook, index in graph.nodes
    ]


def _use(activations: "TopActivations", hook: str, index: int, n_contexts: int) -> dict[str, Any]:
    return {
        "rate": activations.firing_rate(hook, index),
        "tokens": [
            [token, *_numbers([value])] for token, value in activations.tokens(hook, index, n=TOP_TOKENS)
        ],
        "contexts": [_context(context) for context in activations.contexts(hook, index, n=n_contexts)],
    }


def _context(context: "Context") -> dict[str, Any]:
    start = max(0, min(context.peak - CONTEXT_TOKENS // 2, len(context.tokens) - CONTEXT_TOKENS))
    shown = slice(start, start + CONTEXT_TOKENS)
    return {
        "text": context.text,
        "tokens": list(context.tokens[shown]),
        "activations": _numbers(context.activations[shown]),
        "peak": context.peak - start,
        "cut": [start > 0, start + CONTEXT_TOKENS < len(context.tokens)],
    }


def _plain(value: Any) -> Any:
    """Give a value as JSON knows it; what JSON does not know, as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

"""A flow graph in other programs' forms."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_ext.analysis.flow.sites import flow_site
from sae_lens_ext.files import write_whole

if TYPE_CHECKING:
    import networkx as nx

    from sae_lens_ext.analysis.flow.graph import FlowGraph


def to_networkx(graph: "FlowGraph") -> "nx.DiGraph":
    """See `FlowGraph.to_networkx`."""
    import networkx as nx

    found = nx.DiGraph(starts=list(graph.starts), **graph.provenance)
    frame = graph.node_frame()
    attributes = frame.drop(columns=["hook", "index"]).to_dict("records")
    found.add_nodes_from(zip(graph.nodes, map(_known, attributes), strict=True))
    nodes = graph.nodes
    found.add_edges_from(
        (nodes[source], nodes[target], {"score": score, "null_quantile": quantile})
        for source, target, score, quantile in zip(
            graph.edge_source.tolist(),
            graph.edge_target.tolist(),
            graph.edge_score.tolist(),
            graph.edge_null_quantile.tolist(),
            strict=True,
        )
    )
    return found


def write_graphml(graph: "FlowGraph", path: str | Path) -> None:
    """See `FlowGraph.to_graphml`."""
    import networkx as nx

    found = nx.relabel_nodes(to_networkx(graph), {node: _name(*node) for node in graph.nodes})
    found.graph.clear()  # GraphML has no lists
    write_whole(path, "\n".join(nx.generate_graphml(found)) + "\n")


def write_json(graph: "FlowGraph", path: str | Path) -> None:
    """See `FlowGraph.to_json`."""
    found = to_networkx(graph)
    content = {
        "starts": [_name(*start) for start in graph.starts],
        "thresholds": graph.thresholds,
        "missing": list(graph.missing),
        "provenance": graph.provenance,
        "nodes": [
            {
                "id": _name(hook, index),
                "hook": hook,
                "index": index,
                "site": flow_site(hook).short,
                **attributes,
            }
            for (hook, index), attributes in found.nodes(data=True)
        ],
        "edges": [
            {"source": _name(*source), "target": _name(*target), **attributes}
            for source, target, attributes in found.edges(data=True)
        ],
    }
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _name(hook: str, index: int) -> str:
    return f"{hook}:{index}"


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is NaN or empty: other programs have no word for it."""
    return {name: value for name, value in attributes.items() if value == value and value != ""}

"""Where the features of a flow graph are drawn: columns by layer, lanes by kind, and rows that keep chains straight."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sae_lens_ext.analysis.flow.sites import FlowSite, Kind, flow_site

if TYPE_CHECKING:
    from sae_lens_ext.analysis.flow.graph import FlowGraph

LANES: tuple[Kind, ...] = ("attention", "residual", "mlp")
"""From top to bottom."""


@dataclass(frozen=True)
class Layout:
    """Where each node of a graph is drawn."""

    sites: tuple[FlowSite, ...]
    """The site of each hook of the graph, in its order."""
    layers: tuple[int, ...]
    """The layers that have a column, ascending: those with a hook, from the first with a node to the last."""
    column: tuple[int, ...]
    """By node: position in `layers`."""
    lane: tuple[int, ...]
    """By node: position in `LANES`."""
    row: tuple[int, ...]
    """By node: from the top of its lane, from 0. No two nodes of a layer and lane share one."""
    heights: tuple[int, ...]
    """By lane: how many rows; 0 where it has no node."""


def layout(graph: "FlowGraph") -> Layout:
    """Place the nodes of a graph.

    Residual features are parted into chains, starts first, each following the strongest edges; a chain keeps one row from its first
    layer to its last, near to the chain that it leaves or joins. The features of modules lie beside the stream, in the order of the
    rows they feed, so that few edges cross.
    """
    sites = tuple(flow_site(hook) for hook in graph.hooks)
    hook_of = np.asarray(graph.node_hook).tolist()
    used = [sites[hook].layer for hook in hook_of]
    first, last = (min(used), max(used)) if used else (0, -1)
    layers = tuple(sorted({site.layer for site in sites if first <= site.layer <= last}))
    column = [layers.index(layer) for layer in used]
    lane = [LANES.index(sites[hook].kind) for hook in hook_of]
    stream = LANES.index("residual")
    row = [-1] * len(hook_of)
    for node, place in _rows_of_chains(graph, column, lane).items():
        row[node] = place
    heights = [0] * len(LANES)
    heights[stream] = 1 + max((row[node] for node in range(len(row)) if lane[node] == stream), default=-1)
    _add_modules(graph, column, lane, row, heights)
    return Layout(sites, layers, tuple(column), tuple(lane), tuple(row), tuple(heights))


def start_nodes(graph: "FlowGraph") -> list[int]:
    """Give the positions of a graph's starts among its nodes, in their order."""
    where = {node: i for i, node in enumerate(graph.nodes)}
    return [where[start] for start in graph.starts if start in where]


def _rows_of_chains(graph: "FlowGraph", column: list[int], lane: list[int]) -> dict[int, int]:
    """Give each residual feature its row, from 0."""
    stream = LANES.index("residual")
    before, after = _residual_edges(graph, lane)
    occupied: dict[int, int] = defaultdict(int)  # by row: the columns taken, as bits
    row: dict[int, int] = {}
    starts = start_nodes(graph)
    others = sorted((n for n in range(len(lane)) if lane[n] == stream), key=lambda n: (column[n], n))
    for start in [n for n in starts if lane[n] == stream] + others:
        if start in row:
            continue
        chain, joined = _chain(start, before, after, row)
        columns = 0
        for node in chain:
            columns |= 1 << column[node]
        near = [row[node] for node in joined if node in row]
        place = _free_row(occupied, columns, near[0] if near else None)
        occupied[place] |= columns
        for node in chain:
            row[node] = place
    rank = {place: i for i, place in enumerate(sorted(set(row.values())))}
    return {node: rank[place] for node, place in row.items()}


def _residual_edges(graph: "FlowGraph", lane: list[int]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Give each residual feature's residual predecessors and successors, the strongest first."""
    stream = LANES.index("residual")
    before: dict[int, list[int]] = defaultdict(list)
    after: dict[int, list[int]] = defaultdict(list)
    order = np.argsort(-np.asarray(graph.edge_score), kind="stable").tolist()
    source, target = np.asarray(graph.edge_source).tolist(), np.asarray(graph.edge_target).tolist()
    for edge in order:
        if lane[source[edge]] == lane[target[edge]] == stream:
            before[target[edge]].append(source[edge])
            after[source[edge]].append(target[edge])
    return before, after


def _chain(
    start: int, before: dict[int, list[int]], after: dict[int, list[int]], taken: dict[int, int]
) -> tuple[list[int], list[int]]:
    """Follow the strongest edges both ways until there is none or a placed feature; give the chain, and the features it ends at."""
    chain, ends = [start], list[int]()
    for neighbours in (before, after):
        node = start
        while neighbours[node]:
            free = [other for other in neighbours[node] if other not in taken]
            ends += [other for other in neighbours[node] if other in taken]
            if not free or (neighbours is before and free[0] != neighbours[node][0]):
                break  # its strongest predecessor has a row of its own
            node = free[0]
            chain.append(node)
    return chain, ends


def _free_row(occupied: dict[int, int], columns: int, near: int | None) -> int:
    """Give the row nearest to `near` in which the columns are free; the first free one from the top if it is near to none."""
    if near is None:
        place = min(occupied, default=0)
        while occupied.get(place, 0) & columns:
            place += 1
        return place
    distance = 0
    while True:
        for place in (near + distance, near - distance):
            if not occupied.get(place, 0) & columns:
                return place
        distance += 1


def _add_modules(
    graph: "FlowGraph", column: list[int], lane: list[int], row: list[int], heights: list[int]
) -> None:
    """Place the features of the modules beside the stream, ordered by the rows they feed."""
    stream = LANES.index("residual")
    fed: dict[int, list[int]] = defaultdict(list)
    source, target = np.asarray(graph.edge_source).tolist(), np.asarray(graph.edge_target).tolist()
    for s, t in zip(source, target, strict=True):
        if lane[t] == stream and lane[s] != stream:
            fed[s].append(row[t])
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for node in range(len(lane)):
        if lane[node] != stream:
            groups[lane[node], column[node]].append(node)
    for (own_lane, _), nodes in groups.items():
        nodes.sort(key=lambda n: (float(np.mean(fed[n])) if fed[n] else float("inf"), n))
        heights[own_lane] = max(heights[own_lane], len(nodes))
    for (own_lane, _), nodes in groups.items():
        top = (
            heights[own_lane] - len(nodes) if own_lane < stream else 0
        )  # the lane above grows upwards from the stream
        for i, node in enumerate(nodes):
            row[node] = top + i

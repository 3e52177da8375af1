"""Following features through the layers (arXiv 2502.03032, §3.3): back and forth along the residual stream, with the modules that feed it.

Left out: more than the best match of a feature at a site. Distant layers are never matched with each other, their neighbours are
followed one by one.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.flow.graph import Feature, FlowGraph
from sae_lens_ext.analysis.flow.links import N_NULL, Links, Match
from sae_lens_ext.analysis.flow.null import NullModel
from sae_lens_ext.analysis.flow.origins import origin_codes, origin_is_known
from sae_lens_ext.analysis.flow.sites import KINDS, FlowSites, FlowSources, Kind
from sae_lens_ext.analysis.flow.thresholds import FlowThresholds, ThresholdsLike, thresholds_of
from sae_lens_ext.analysis.provenance import versions


def trace_feature(
    sites: FlowSources | FlowSites,
    start: Feature,
    *,
    thresholds: ThresholdsLike = "null",
    backward: bool = True,
    forward: bool = True,
    null: NullModel = "shuffled",
    n_null: int = N_NULL,
    model: Any = None,
    seed: int = 0,
    show_progress: bool = True,
) -> FlowGraph:
    """Trace one feature through the layers, by decoder directions alone.

    From a feature of the residual stream the trace goes back from layer to layer to the one most like it, as far as the score counts,
    and forward in the same way; each feature on the way is joined by its best match in its layer's MLP and attention output, if that
    counts. A feature of a module goes forward only. Where a layer has no SAE, the chain ends; graph.missing says so.

    Args:
        sites: SAEs by hook name (or in a row), of any architecture, any layers: residual stream, MLP and attention outputs.
        start: The feature, (hook name, index).
        thresholds: From which score on a match counts. "null" (default): as 99 of 100 made-up features do not reach; "paper": 0.5 along the
            stream and 0.15 for modules, with which the paper steers; None: any positive cosine, the full chain; or `FlowThresholds`.
        backward: Go back to the first layer.
        forward: Go on to the last layer.
        null: How features are made up for the null quantile of an edge, see `null_cosines`.
        n_null: How many are made up.
        model: The language model, for SAEs of the attention's heads (`attn.hook_z`) alone.
        seed: Of the made-up features.
        show_progress: Show a bar over the layers.

    Returns:
        The graph.

    Raises:
        ValueError: There is no SAE at the start's hook or no such feature; the SAEs are no features of one stream, see `FlowSites.open`.
    """
    caller = "trace_feature"
    limits = thresholds_of(caller, thresholds)
    found = FlowSites.open(caller, sites, model=model)
    links = Links(found, null, n_null, seed)
    return _traced(
        caller, links, [start], limits, backward=backward, forward=forward, show_progress=show_progress
    )


def trace_features(
    sites: FlowSources | FlowSites,
    starts: Sequence[Feature],
    *,
    thresholds: ThresholdsLike = "null",
    backward: bool = True,
    forward: bool = True,
    null: NullModel = "shuffled",
    n_null: int = N_NULL,
    model: Any = None,
    seed: int = 0,
    show_progress: bool = True,
) -> FlowGraph:
    """Trace several features into one graph, see `trace_feature`; what their traces share is there once.

    Args:
        sites: As for `trace_feature`.
        starts: The features, (hook name, index) each.
        thresholds: As for `trace_feature`.
        backward: As for `trace_feature`.
        forward: As for `trace_feature`.
        null: As for `trace_feature`.
        n_null: As for `trace_feature`.
        model: As for `trace_feature`.
        seed: As for `trace_feature`.
        show_progress: Show a bar over the layers.

    Raises:
        ValueError: There is nothing to start from, or as for `trace_feature`.
    """
    caller = "trace_features"
    limits = thresholds_of(caller, thresholds)
    found = FlowSites.open(caller, sites, model=model)
    if isinstance(starts, str) or not isinstance(starts, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"{caller} was given starts of type {type(starts).__name__}. Give a list of features, (hook name, index) each."
        )
    links = Links(found, null, n_null, seed)
    return _traced(
        caller, links, starts, limits, backward=backward, forward=forward, show_progress=show_progress
    )


def _traced(
    caller: str,
    links: Links,
    starts: Iterable[Feature],
    limits: FlowThresholds,
    *,
    backward: bool,
    forward: bool,
    show_progress: bool,
) -> FlowGraph:
    """Trace features into one graph; for messages, `caller` is the function the user called."""
    found = links.sites
    features: list[Feature] = []
    for start in starts:
        if not isinstance(start, Sequence) or isinstance(start, str) or len(start) != 2:  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison]
            raise ValueError(f"{caller} was given {start!r} to start from. Give (hook name, index).")
        name = found.name_of(start[0])
        features.append((name, found.index(name, start[1])))
    if not features:
        raise ValueError(f"{caller} was given no feature to start from. Give (hook name, index).")
    tracer = _Tracer(links, limits)
    once = tuple(dict.fromkeys(features))
    tracer.trace(once, backward=backward, forward=forward, show_progress=show_progress)
    return tracer.graph(once, {"model_name": found.model_name, **links.settings, **versions()})


class _Tracer:
    """Gathers the nodes and edges of traces."""

    def __init__(self, links: Links, thresholds: FlowThresholds) -> None:
        self._links = links
        self._sites = links.sites
        self._thresholds = thresholds
        self._nodes: dict[Feature, dict[Kind, Match]] = {}
        self._edges: dict[tuple[Feature, Feature], Match] = {}

    def trace(self, starts: Sequence[Feature], *, backward: bool, forward: bool, show_progress: bool) -> None:
        """Add features, and what they come from and go to, layer by layer, so that each site is opened a few times and not for each feature."""
        layers = [layer for layer in self._sites.layers for _ in range(backward + forward)]
        with tqdm(total=len(layers), desc="Layers", disable=not show_progress) as bar:
            if backward:
                self._walk(starts, list(reversed(self._sites.layers)), self._back, bar)
            if forward:
                self._walk(starts, list(self._sites.layers), self._on, bar)
        for start in starts:
            self._add(start)

    def _walk(
        self,
        starts: Sequence[Feature],
        layers: Sequence[int],
        step: Callable[[Feature], Feature | None],
        bar: Any,
    ) -> None:
        """Take every feature a step on, layer by layer; a step within a layer, from a module to its stream, is followed there."""
        front = dict.fromkeys(starts)
        for layer in layers:
            here = [node for node in front if self._sites.site(node[0]).layer == layer]
            while here:
                reached = [after for node in here if (after := step(node)) is not None]
                front.update(dict.fromkeys(reached))
                here = [node for node in dict.fromkeys(reached) if self._sites.site(node[0]).layer == layer]
            bar.update()

    def _add(self, node: Feature) -> None:
        """Add a node, and the modules' features that count as its predecessors."""
        if node in self._nodes:
            return
        hook, index = node
        before = self._sites.predecessors(hook)
        matches: dict[Kind, Match] = {
            kind: self._links.best(hook, index, other) for kind, other in before.items()
        }
        self._nodes[node] = matches
        for kind, match in matches.items():
            if kind != "residual" and self._counts(kind, match):
                module = (before[kind], match.index)
                self._nodes.setdefault(module, {})
                self._edges[module, node] = match

    def _back(self, node: Feature) -> Feature | None:
        """Add a residual feature's best predecessor in the stream, if it counts, and give it."""
        self._add(node)
        match = self._nodes[node].get("residual")
        if match is None or not self._counts("residual", match):
            return None
        before = (self._sites.predecessors(node[0])["residual"], match.index)
        self._add(before)
        self._edges[before, node] = match
        return before

    def _on(self, node: Feature) -> Feature | None:
        """Add the residual feature that a feature goes on to, if that counts, and give it."""
        self._add(node)
        after_hook = self._sites.successor(node[0])
        if after_hook is None:
            return None
        kind = self._sites.site(node[0]).kind
        match = self._links.best(node[0], node[1], after_hook)
        if not self._counts(kind, match):
            return None
        after = (after_hook, match.index)
        self._add(after)
        self._edges.setdefault((node, after), match)
        return after

    def _counts(self, kind: Kind, match: Match) -> bool:
        return bool(
            self._thresholds.passed(
                kind, torch.tensor([match.score]), torch.tensor([match.null_quantile])
            ).item()
        )

    def graph(self, starts: tuple[Feature, ...], provenance: dict[str, Any]) -> FlowGraph:
        """Give what was gathered, nodes and edges in the order of the sites."""
        hooks = tuple(self._sites)
        place = {name: i for i, name in enumerate(hooks)}
        nodes = sorted(self._nodes, key=lambda node: (place[node[0]], node[1]))
        position = {node: i for i, node in enumerate(nodes)}
        edges = sorted(self._edges, key=lambda edge: (position[edge[1]], position[edge[0]]))
        matches = [self._nodes[node] for node in nodes]
        return FlowGraph(
            hooks=hooks,
            node_hook=torch.tensor([place[hook] for hook, _ in nodes]),
            node_index=torch.tensor([index for _, index in nodes]),
            node_scores=torch.tensor(
                [[m[kind].score if kind in m else math.nan for kind in KINDS] for m in matches],
                dtype=torch.float32,
            ),
            node_origin=torch.tensor(
                [self._origin(node, m) for node, m in zip(nodes, matches, strict=True)], dtype=torch.int8
            ),
            edge_source=torch.tensor([position[source] for source, _ in edges], dtype=torch.int64),
            edge_target=torch.tensor([position[target] for _, target in edges], dtype=torch.int64),
            edge_score=torch.tensor([self._edges[edge].score for edge in edges], dtype=torch.float32),
            edge_null_quantile=torch.tensor(
                [self._edges[edge].null_quantile for edge in edges], dtype=torch.float32
            ),
            starts=starts,
            thresholds=self._thresholds.to_dict(),
            missing=self._sites.missing,
            neuronpedia_ids=self._sites.neuronpedia_ids,
            provenance=provenance,
            sites=self._sites,
        )

    def _origin(self, node: Feature, matches: dict[Kind, Match]) -> int:
        if not origin_is_known(self._sites.site(node[0]).layer, matches):
            return 0
        high: dict[Kind, torch.Tensor] = {
            kind: torch.tensor([self._counts(kind, match)]) for kind, match in matches.items()
        }
        return 1 + int(origin_codes(high).item())

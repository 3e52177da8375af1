"""The flow graph of a whole model: every feature of every layer with its best predecessors."""

from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.flow.graph import FlowGraph
from sae_lens_ext.analysis.flow.links import N_NULL, Links
from sae_lens_ext.analysis.flow.null import NullModel
from sae_lens_ext.analysis.flow.origins import origin_codes, origin_is_known
from sae_lens_ext.analysis.flow.sites import KINDS, FlowSites, FlowSources, Kind
from sae_lens_ext.analysis.flow.thresholds import ThresholdsLike, thresholds_of
from sae_lens_ext.analysis.provenance import versions


def flow_map(
    sites: FlowSources | FlowSites,
    *,
    thresholds: ThresholdsLike = "null",
    null: NullModel = "shuffled",
    n_null: int = N_NULL,
    seed: int = 0,
    show_progress: bool = True,
    model: Any = None,
) -> FlowGraph:
    """Match every feature of the residual stream with its best predecessors, for all layers.

    All matches are backward, from a feature to where it comes from, so that a feature may flow into several; `subgraph` gives what
    belongs to some. In memory are the decoders of four sites at a time, chunks of cosines, and the graph, 60 bytes a feature and 28 an edge.
    SAEs that are given as folders are opened layer by layer.

    Args:
        sites: As for `trace_feature`.
        thresholds: As for `trace_feature`.
        null: As for `trace_feature`.
        n_null: As for `trace_feature`.
        seed: As for `trace_feature`.
        show_progress: Show a bar over the pairs of sites.
        model: As for `trace_feature`.

    Returns:
        The graph; every feature of every site is a node.

    Raises:
        ValueError: As for `trace_feature`, or no two sites follow one another.
    """
    limits = thresholds_of("flow_map", thresholds)
    found = FlowSites.open("flow_map", sites, model=model)
    links = Links(found, null, n_null, seed)
    hooks = tuple(found)
    size = torch.tensor([found.d_sae(hook) for hook in hooks])
    offset = dict(zip(hooks, (torch.cumsum(size, 0) - size).tolist(), strict=True))
    pairs: list[tuple[str, Kind, str]] = [
        (hook, kind, before) for hook in hooks for kind, before in found.predecessors(hook).items()
    ]
    if not pairs:
        raise ValueError(
            f"flow_map was given SAEs at {', '.join(map(repr, hooks))}, of which none comes before another. Give those of the residual stream of "
            "neighbouring layers, or of modules of its layers."
        )
    n = int(size.sum())
    scores = torch.full((n, len(KINDS)), float("nan"))
    origin = torch.zeros(n, dtype=torch.int8)
    edges: list[tuple[torch.Tensor, ...]] = []
    high: dict[Kind, torch.Tensor] = {}
    with tqdm(total=len(pairs), desc="Pairs of sites", disable=not show_progress) as bar:
        for i, (hook, kind, before) in enumerate(pairs):
            indices, cosines, quantiles = links.all(hook, before)
            here = slice(offset[hook], offset[hook] + len(indices))
            scores[here, KINDS.index(kind)] = cosines
            counts = limits.passed(kind, cosines, quantiles)
            target = offset[hook] + torch.nonzero(counts)[:, 0]
            edges.append((offset[before] + indices[counts], target, cosines[counts], quantiles[counts]))
            high[kind] = counts
            if i + 1 == len(pairs) or pairs[i + 1][0] != hook:
                if origin_is_known(found.site(hook).layer, high):
                    origin[here] = 1 + origin_codes(high)
                high = {}
            bar.update()
    source, target, edge_score, edge_quantile = (torch.cat(column) for column in zip(*edges, strict=True))
    return FlowGraph(
        hooks=hooks,
        node_hook=torch.repeat_interleave(torch.arange(len(hooks)), size),
        node_index=torch.cat([torch.arange(d_sae) for d_sae in size.tolist()]),
        node_scores=scores,
        node_origin=origin,
        edge_source=source,
        edge_target=target,
        edge_score=edge_score,
        edge_null_quantile=edge_quantile,
        thresholds=limits.to_dict(),
        missing=found.missing,
        neuronpedia_ids=found.neuronpedia_ids,
        provenance={"model_name": found.model_name, **links.settings, **versions()},
        sites=found,
    )

"""The flow graph of a whole model: every feature of every layer with its best predecessors."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.flow.graph import FlowGraph
from sae_lens_ext.analysis.flow.links import N_NULL, Links
from sae_lens_ext.analysis.flow.null import NullModel
from sae_lens_ext.analysis.flow.origins import origin_codes, origin_is_known
from sae_lens_ext.analysis.flow.sites import KINDS, FlowSites, FlowSources, Kind
from sae_lens_ext.analysis.flow.thresholds import FlowThresholds, ThresholdsLike, thresholds_of
from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.ranks import Ranks, current_ranks, divided, own_device

_Pair = tuple[str, Kind, str]
"""A hook, the kind of its predecessor, and the predecessor's hook."""


def flow_map(
    sites: FlowSources | FlowSites,
    *,
    thresholds: ThresholdsLike = "null",
    null: NullModel = "shuffled",
    n_null: int = N_NULL,
    model: Any = None,
    device: str | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> FlowGraph:
    """Match every feature of the residual stream with its best predecessors, for all layers.

    All matches are backward, from a feature to where it comes from, so that a feature may flow into several; `subgraph` gives what
    belongs to some. In memory are the decoders of four sites at a time, chunks of cosines, and the graph, 75 bytes a feature and 40 an edge while
    it is put together (several times that where ranks send it to each other), 60 and 28 of them for good. SAEs that are given as folders are opened layer by layer.

    In a job of several ranks (`torchrun`) each, given the same arguments, matches a run of neighbouring pairs of sites, and opens no
    others; all give the same graph, to the bit that of one process on such a device.

    Args:
        sites: As for `trace_feature`.
        thresholds: As for `trace_feature`.
        null: As for `trace_feature`.
        n_null: As for `trace_feature`.
        model: As for `trace_feature`.
        device: Where to compare; "cuda" is each rank's own GPU. None for where the SAEs are, which is the CPU for folders.
        seed: As for `trace_feature`.
        show_progress: Show a bar over the pairs of sites.

    Returns:
        The graph; every feature of every site is a node.

    Raises:
        ValueError: As for `trace_feature`, or no two sites follow one another.
    """
    limits = thresholds_of("flow_map", thresholds)
    found = FlowSites.open(
        "flow_map", sites, model=model, device=None if device is None else own_device(device)
    )
    links = Links(found, null, n_null, seed)
    hooks = tuple(found)
    size = torch.tensor([found.d_sae(hook) for hook in hooks])
    offset = dict(zip(hooks, (torch.cumsum(size, 0) - size).tolist(), strict=True))
    pairs: list[_Pair] = [
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
    found_matches = _matched(pairs, links, limits, current_ranks(), show_progress=show_progress)
    for i, ((hook, kind, before), matches) in enumerate(zip(pairs, found_matches, strict=True)):
        here = slice(offset[hook], offset[hook] + found.d_sae(hook))
        scores[here, KINDS.index(kind)] = matches.cosines
        target = offset[hook] + torch.nonzero(matches.counts)[:, 0]
        edges.append(
            (offset[before] + matches.indices, target, matches.cosines[matches.counts], matches.quantiles)
        )
        high[kind] = matches.counts
        if i + 1 == len(pairs) or pairs[i + 1][0] != hook:
            if origin_is_known(found.site(hook).layer, high):
                origin[here] = 1 + origin_codes(high)
            high = {}
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


@dataclass(frozen=True)
class _Matches:
    """The best predecessors of one kind of a site's features, on the CPU."""

    cosines: torch.Tensor
    """[d_sae], NaN for none."""
    counts: torch.Tensor
    """[d_sae], bool: which of them count."""
    indices: torch.Tensor
    """[n]: the predecessors that count."""
    quantiles: torch.Tensor
    """[n]: their null quantiles."""


def _matched(
    pairs: Sequence[_Pair], links: Links, limits: FlowThresholds, ranks: Ranks, *, show_progress: bool
) -> list[_Matches]:
    """Match all pairs of sites; each rank does a run of neighbours, which have sites in common."""
    borders = [len(pairs) * rank // ranks.size for rank in range(ranks.size + 1)]
    runs = [pairs[start:end] for start, end in pairwise(borders)]

    def match(run: Sequence[_Pair]) -> list[_Matches]:
        found: list[_Matches] = []
        for hook, kind, before in tqdm(
            run, desc="Pairs of sites", disable=not (show_progress and ranks.is_first)
        ):
            indices, cosines, quantiles = links.all(hook, before)
            counts = limits.passed(kind, cosines, quantiles)
            found.append(_Matches(cosines, counts, indices[counts], quantiles[counts]))
        return found

    return [matches for run in divided(runs, match, ranks, "matching pairs of sites") for matches in run]

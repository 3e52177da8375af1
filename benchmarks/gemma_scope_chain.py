"""Trace the paper's example through Gemma Scope, and compare with the chain the paper prints (arXiv 2502.03032).

The feature is 24/res/14548 of Gemma 2 2B. The residual and MLP SAEs are fetched from the hub, 52 of 16k features, one after the other; the
language model is not needed. This has not been run for the figures here, which come from a machine without the hub.

    python benchmarks/gemma_scope_chain.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext import FlowGraph, FlowThresholds, trace_feature
from sae_lens_ext.analysis.flow import FlowSites

SEED = (24, 14548)
CHAIN = dict(
    zip(
        range(23, -1, -1),
        (
            *(9592, 11460, 14511, 12523, 15694, 11987, 8130, 10649, 9388, 5262, 4955, 2812),
            *(7614, 13754, 8318, 9666, 16335, 2452, 14558, 11935, 16138, 12939, 13755, 14403),
        ),
        strict=True,
    )
) | {24: 14548, 25: 1646}
"""Feature of the residual stream by layer."""
MLP = {24: 11342, 23: 6936, 22: 14728, 21: 594, 20: 601, 17: 8454, 7: 6110, 1: 16168, 0: 12987}
"""Feature of the MLP's output by layer, where s(M) ≥ 0.25."""
SCORES = {(7, "mlp"): 0.82, (7, "residual"): 0.30, (17, "residual"): 0.48, (17, "mlp"): 0.79}
"""s(M) and s(R) that the paper prints, by layer."""
THRESHOLDS = FlowThresholds(mlp=0.25, attention=0.25)
"""The example's: the chain is not cut."""


def differences(
    graph: FlowGraph,
    chain: Mapping[int, int] = CHAIN,
    mlp: Mapping[int, int] = MLP,
    scores: Mapping[tuple[int, str], float] = SCORES,
    *,
    tolerance: float = 0.01,
) -> list[str]:
    """Compare a traced graph with a printed one.

    Args:
        graph: The graph, traced from one residual feature.
        chain: Feature of the residual stream by layer.
        mlp: Feature of the MLP's output by layer; at other layers there must be none.
        scores: s(R) and s(M) by layer and kind.
        tolerance: Scores may differ by so much.

    Returns:
        A sentence for each difference; none if the graphs agree.
    """
    nodes = graph.node_frame()
    on_chain = nodes.iloc[[graph.position(feature) for feature in graph.chain()]].set_index("layer")
    modules = nodes[nodes["kind"] == "mlp"].set_index("layer")["index"].to_dict()
    found = [
        f"Layer {layer}: residual feature {on_chain['index'].get(layer)}, printed {index}."
        for layer, index in sorted(chain.items())
        if on_chain["index"].get(layer) != index
    ]
    found += [
        f"Layer {layer}: MLP feature {modules.get(layer)}, printed {mlp.get(layer)}."
        for layer in sorted({*modules, *mlp})
        if modules.get(layer) != mlp.get(layer)
    ]
    for (layer, kind), printed in scores.items():
        score = on_chain[f"{kind}_score"].get(layer)
        if score is None or abs(score - printed) > tolerance:
            found.append(f"Layer {layer}: {kind} score {score}, printed {printed}.")
    return found


def gemma_scope() -> FlowSites:
    """Give the residual and MLP SAEs of all layers."""
    sources: dict[str, Any] = {}
    for layer in range(26):
        for kind, hook in (("res", "hook_resid_post"), ("mlp", "hook_mlp_out")):
            release = f"gemma-scope-2b-pt-{kind}-canonical"
            sources[f"blocks.{layer}.{hook}"] = (release, f"layer_{layer}/width_16k/canonical")
    return FlowSites.open("gemma_scope_chain", sources)


def main() -> None:
    """Trace, compare, print."""
    layer, index = SEED
    graph = trace_feature(gemma_scope(), (f"blocks.{layer}.hook_resid_post", index), thresholds=THRESHOLDS)
    graph.write_html(Path(__file__).with_suffix(".html"), title="Gemma 2 2B, 24/res/14548")
    found = differences(graph)
    print("\n".join(found) if found else "The chain, the MLP's features and the scores are the printed ones.")


if __name__ == "__main__":
    main()

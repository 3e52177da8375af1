"""Ten features whose meaning can be read from what they fire on, traced through eleven layers: the page of docs/feature_flow.md.

python benchmarks/flow_graph.py
"""

from pathlib import Path

from flow_saes import flow_saes
from flow_themes import MAX_TOKENS, SEED_LAYER, read_top_activations, share_of_theme, theme_features
from result import write_figure, write_result

from sae_lens_ext import trace_feature, trace_features

PAGE_CONTEXTS = 4


def main() -> None:
    """Trace, draw, write."""
    saes, tops = flow_saes(), read_top_activations()
    seeds = theme_features(tops)
    chains = {}
    for theme, seed in seeds.items():
        full = trace_feature(saes, seed, thresholds=None)
        nodes = full.node_frame()
        chain = [full.position(feature) for feature in full.chain()]
        chains[theme] = {
            "seed": list(seed),
            "share_of_theme_words": round(share_of_theme(tops, *seed, theme), 4),
            "firing_rate": round(tops.firing_rate(*seed), 5),
            "chain": [
                {
                    "layer": int(nodes["layer"][i]),
                    "index": int(nodes["index"][i]),
                    **{
                        f"s_{kind[0].upper()}": None if score != score else round(float(score), 3)
                        for kind in ("residual", "mlp", "attention")
                        for score in (nodes[f"{kind}_score"][i],)
                    },
                    "share_of_theme_words": round(share_of_theme(tops, *full.nodes[i], theme), 4),
                    "fires_on": [token for token, _ in tops.tokens(*full.nodes[i], 6)],
                }
                for i in chain
            ],
        }
    graph = trace_features(saes, list(seeds.values()), thresholds="null").with_activations(tops)
    print(graph)
    graph.write_html(
        Path(__file__).with_suffix(".html"), title="Ten features of SmolLM2-135M-Instruct, layers 0 to 10"
    )
    write_figure(
        __file__, trace_feature(saes, seeds["cooking"], thresholds="null").with_activations(tops).plot()
    )
    write_result(
        __file__,
        {
            "settings": {"seed_layer": SEED_LAYER, "tokens_read": MAX_TOKENS, "thresholds": graph.thresholds},
            "nodes": len(graph.nodes),
            "edges": len(graph.edge_score),
            "chains": chains,
        },
    )


if __name__ == "__main__":
    main()

"""What Kron trained for several budgets is worth: its explained variance at each k beside both its parents'.

Also what a subset of budgets costs HierarchicalTopK in explained variance. Same activations, same tokens.

python benchmarks/kron_budgets.py         writes kron_budgets.json and kron_budgets.svg; ten minutes on two cores
"""

import time

import plotly.graph_objects as go
from offline_training import D_IN, activations, measured, silent_latents, trained
from result import write_figure, write_result
from sae_lens import TopKTrainingSAEConfig
from saes import powers_of_two

from sae_lens_ext import HierarchicalTopKTrainingSAEConfig, KronTrainingSAEConfig
from sae_lens_ext.cli.quickstart.plan import Plan

K = 64


def main() -> None:
    """Train, measure, draw, write."""
    plan = Plan()
    size = {"d_in": D_IN, "d_sae": plan.d_sae, "k": K}
    kron = {**size, "base_dim": 2, "extension_dim": 4}
    powers = powers_of_two(K)
    configs = {
        "topk, k = 64": TopKTrainingSAEConfig(**size),
        "hierarchical_topk, all budgets": HierarchicalTopKTrainingSAEConfig(**size),
        "hierarchical_topk, powers of two": HierarchicalTopKTrainingSAEConfig(**size, budgets=powers),
        "kron, k = 64": KronTrainingSAEConfig(**kron),
        "kron, k = 32": KronTrainingSAEConfig(**{**kron, "k": 32}),
        "kron, all budgets": KronTrainingSAEConfig(**kron, budgets="all"),
        "kron, powers of two": KronTrainingSAEConfig(**kron, budgets=powers),
    }
    training, held_out = activations(plan)
    rows = {}
    for name, cfg in configs.items():
        start = time.perf_counter()
        trainer = trained(plan, cfg, training)
        rows[name] = {
            **measured(trainer, held_out),
            "dead_latents": silent_latents(trainer, held_out),
            "training_seconds": round(time.perf_counter() - start, 1),
        }
        print(name, rows[name], flush=True)
    write_result(__file__, {"plan": plan.to_dict(), "held_out_tokens": len(held_out), "rows": rows})
    figure = go.Figure()
    for name, row in rows.items():
        curve = row["explained_variance"]
        figure.add_scatter(name=name, x=[int(k) for k in curve], y=list(curve.values()), mode="lines+markers")
    figure.update_layout(
        title=f"Held-out explained variance, {plan.training_tokens:,} tokens, {plan.d_sae} latents",
        xaxis={"title": "latents per token", "type": "log", "tickvals": [8, 16, 32, 64]},
        yaxis_title="explained variance",
    )
    write_figure(__file__, figure)


if __name__ == "__main__":
    main()

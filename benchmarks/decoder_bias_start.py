"""Explained variance when b_dec starts at zero, as SAELens has it, and when it starts at the activations' mean.

A bias moves by about the learning rate a step, and the mean of these activations is far from zero, so in a short run the
latents have to make it up.

python benchmarks/decoder_bias_start.py          writes benchmarks/decoder_bias_start.json; ten minutes on two cores
"""

import json
from pathlib import Path

from machine import machine
from offline_training import D_IN, activations, measured, trained

from sae_lens_ext.cli.quickstart.plan import HIERARCHICAL, KRON, Plan, sae_configs, topk_name


def main() -> None:
    """Measure and write the JSON beside this file."""
    plan = Plan()
    training, held_out = activations(plan)
    mean = training[: plan.train_batch_size_tokens].mean(dim=0)
    rows = []
    for name in (topk_name(32), KRON, HIERARCHICAL):
        for start in ("zero", "mean"):
            trainer = trained(
                plan, sae_configs(plan, D_IN)[name], training, b_dec=mean if start == "mean" else None
            )
            rows.append({"sae": name, "b_dec_starts_at": start, **measured(trainer, held_out)})
            print(rows[-1], flush=True)
    result = {
        "machine": machine(),
        "plan": plan.to_dict(),
        "held_out_tokens": len(held_out),
        "mean_activation_norm": mean.norm().item(),
        "mean_norm_of_activations": training.norm(dim=-1).mean().item(),
        "rows": rows,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

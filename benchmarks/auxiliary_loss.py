"""What the dead-latent loss does for HierarchicalTopK and Kron: explained variance and dead latents by coefficient.

The papers disagree or are silent on its weight; this decides our defaults at the quickstart's size.

python benchmarks/auxiliary_loss.py          writes benchmarks/auxiliary_loss.json; a quarter of an hour on two cores
"""

import json
from dataclasses import replace
from pathlib import Path

from machine import machine
from offline_training import D_IN, activations, measured, silent_latents, trained

from sae_lens_ext.cli.quickstart.plan import HIERARCHICAL, KRON, Plan, sae_configs

COEFFICIENTS = (0.0, 1 / 32, 1.0)


def main() -> None:
    """Sweep and write the JSON beside this file."""
    plan = Plan()
    training, held_out = activations(plan)
    rows = []
    for name in (KRON, HIERARCHICAL):
        for coefficient in COEFFICIENTS:
            cfg = replace(sae_configs(plan, D_IN)[name], aux_loss_coefficient=coefficient)
            trainer = trained(plan, cfg, training)
            rows.append(
                {
                    "sae": name,
                    "aux_loss_coefficient": coefficient,
                    **measured(trainer, held_out),
                    "dead_latents": silent_latents(trainer, held_out),
                }
            )
            print(rows[-1], flush=True)
    result = {"machine": machine(), "plan": plan.to_dict(), "held_out_tokens": len(held_out), "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Explained variance against learning rate for TopK, HierarchicalTopK and Kron, as the quickstart trains them.

Small runs are decided by the learning rate, so the comparison is made at each architecture's best as well as at the one
the quickstart shares. Activations are computed once and every SAE sees the same ones in the same order.

python benchmarks/learning_rate.py          writes benchmarks/learning_rate.json; half an hour on two cores

With --lrs and --names only those are measured anew and the rest of the JSON is kept.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from machine import machine
from offline_training import D_IN, activations, measured, trained

from sae_lens_ext.cli.quickstart.plan import HIERARCHICAL, KRON, Plan, sae_configs, topk_name

NAMES = (topk_name(8), topk_name(32), topk_name(64), HIERARCHICAL, KRON)


def main() -> None:
    """Sweep and write the JSON beside this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lrs", type=float, nargs="+", default=[8e-4, 1.6e-3, 3.2e-3])
    parser.add_argument("--names", nargs="+", default=list(NAMES), choices=NAMES)
    options = parser.parse_args()
    plan, path = Plan(), Path(__file__).with_suffix(".json")
    training, held_out = activations(plan)
    again = {(name, lr) for name in options.names for lr in options.lrs}
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [row for row in rows if (row["sae"], row["lr"]) not in again]
    for lr in options.lrs:
        for name in options.names:
            trainer = trained(replace(plan, lr=lr), sae_configs(plan, D_IN)[name], training)
            rows.append({"sae": name, "lr": lr, **measured(trainer, held_out)})
            print(rows[-1], flush=True)
    result = {"machine": machine(), "plan": plan.to_dict(), "held_out_tokens": len(held_out), "rows": rows}
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

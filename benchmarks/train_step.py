"""A whole training step in SAELens' trainer, ours against what exists: forward, backward, clip, Adam, bookkeeping.

python benchmarks/train_step.py         writes train_step.json and train_step.svg; about ten minutes on two cores
"""

import argparse
from dataclasses import replace
from functools import partial

import torch
from competitors import competitor_steps
from interleaved import interleaved
from offline_training import D_IN, activations
from result import bars, write_figure, write_result
from saes import MATRYOSHKA, OURS, TOPK, endless, make, trainer

from sae_lens_ext.cli.quickstart.plan import Plan

BATCH, D_SAE, K = 2048, 16384, 64
DEAD = (0, 300, 3000)  # latents that count as dead


def main() -> None:
    """Time, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    data, _ = activations(replace(Plan(), training_tokens=8 * BATCH))
    batches = list(data.float().split(BATCH))[:8]
    tables = {}
    for dead in DEAD:
        steps = {}
        for name in (TOPK, MATRYOSHKA, *OURS):
            step = trainer(make(name, D_IN, D_SAE, K), BATCH, dead).step
            steps[name] = partial(_next_step, step, endless(batches))
        if not dead:
            for name, step in competitor_steps(D_IN, D_SAE, K).items():
                steps[name] = partial(_next_step, step, endless(batches))
        rounds = args.rounds if not dead else max(3, args.rounds // 3)
        tables[str(dead)] = interleaved(steps, rounds=rounds, against=TOPK)
        for name, row in tables[str(dead)].items():
            print(
                f"dead {dead:5d}  {name:32s} {row['ms']:8.1f} ms   {row['ratio']:.2f} times as fast",
                flush=True,
            )
    size = {"batch": BATCH, "d_in": D_IN, "d_sae": D_SAE, "k": K, "threads": torch.get_num_threads()}
    write_result(__file__, {"size": size, "rounds": args.rounds, "by_dead_latents": tables})
    rows = tables["0"]
    title = f"Training step, {BATCH} tokens, {D_IN} → {D_SAE} latents, k = {K}, float32, Adam"
    columns = [{name: row[key] for name, row in rows.items()} for key in ("ms", "ms_q1", "ms_q3")]
    write_figure(__file__, bars(title, "milliseconds (median, quartiles)", *columns))


def _next_step(step, batches) -> None:
    step(next(batches))


if __name__ == "__main__":
    main()

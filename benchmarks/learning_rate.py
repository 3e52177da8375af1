"""Explained variance against learning rate for TopK, HierarchicalTopK and Kron, as the quickstart trains them.

Small runs are decided by the learning rate, so the comparison is made at each architecture's best as well as at the one
the quickstart shares. Activations are computed once and every SAE sees the same ones in the same order.

python benchmarks/learning_rate.py          writes benchmarks/learning_rate.json; half an hour on two cores
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from machine import machine
from sae_lens import ActivationsStore, LoggingConfig, TrainingSAE, TrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer
from sae_lens.util import temporary_seed
from tqdm.auto import tqdm

from sae_lens_ext import budget_curve
from sae_lens_ext.cli.quickstart.plan import HIERARCHICAL, KRON, Plan, runner_config, sae_configs, topk_name
from sae_lens_ext.cli.quickstart.tokens import contexts, split_documents
from sae_lens_ext.cli.sources import load_any_language_model, load_documents

NAMES = (topk_name(8), topk_name(32), topk_name(64), HIERARCHICAL, KRON)
D_IN = 576
HELD_OUT_TOKENS = 16_384


def activations(plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the activations [N, d_in] of training and of held-out documents."""
    model = load_any_language_model(plan.model, plan.model_class, plan.device)
    sides = []
    for documents, n_tokens in zip(
        split_documents(load_documents(plan.dataset)), (plan.training_tokens, HELD_OUT_TOKENS), strict=True
    ):
        store = ActivationsStore.from_config_multi_hook(
            model,
            dataset=contexts(documents, model.tokenizer, plan.context_size, plan.seed),
            hook_names=[plan.hook],
            hook_d_ins={plan.hook: D_IN},
            streaming=False,
            store_batch_size_prompts=16,
            train_batch_size_tokens=plan.train_batch_size_tokens,
            n_batches_in_buffer=64,
            autocast_lm=True,
            exclude_special_tokens=torch.tensor([model.tokenizer.bos_token_id]),
        )
        loader = store.get_multi_hook_data_loader()
        n_batches = -(-n_tokens // plan.train_batch_size_tokens)
        with temporary_seed(plan.seed):
            sides.append(
                torch.cat([next(loader)[plan.hook] for _ in tqdm(range(n_batches), desc="Activations")])
            )
    return sides[0], sides[1]


def trained(plan: Plan, cfg: TrainingSAEConfig, batches: torch.Tensor) -> SAETrainer:
    """Train one SAE with the quickstart's settings and `plan.lr`."""
    shared = runner_config(plan, D_IN, checkpoint_path="unused", output_path="unused", resume_from=None)
    trainer_cfg: SAETrainerConfig = replace(
        shared.to_sae_trainer_config(),
        n_checkpoints=0,
        checkpoint_path=None,
        logger=LoggingConfig(log_to_wandb=False),
    )
    sae_class, _ = get_sae_training_class(cfg.architecture())
    with temporary_seed(plan.seed):
        sae: TrainingSAE = sae_class(cfg)
        trainer = SAETrainer(trainer_cfg, sae, iter(batches.split(plan.train_batch_size_tokens)))
        trainer.fit()
    return trainer


def main() -> None:
    """Sweep and write the JSON beside this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lrs", type=float, nargs="+", default=[8e-4, 1.6e-3, 3.2e-3])
    parser.add_argument("--names", nargs="+", default=list(NAMES), choices=NAMES)
    options = parser.parse_args()
    plan = Plan()
    training, held_out = activations(plan)
    rows = []
    for lr in options.lrs:
        for name in options.names:
            trainer = trained(replace(plan, lr=lr), sae_configs(plan, D_IN)[name], training)
            ks = [k for k in (8, 16, 32, 64) if k <= trainer.sae.cfg.k]
            curve = budget_curve(trainer.sae, held_out, ks)
            rows.append(
                {
                    "sae": name,
                    "lr": lr,
                    "explained_variance": dict(zip(map(str, ks), curve.explained_variance, strict=True)),
                    "dead_latents": int((trainer.act_freq_scores == 0).sum()),
                }
            )
            print(rows[-1], flush=True)
    result = {"machine": machine(), "plan": plan.to_dict(), "held_out_tokens": len(held_out), "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

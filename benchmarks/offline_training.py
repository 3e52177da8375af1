"""Train SAEs as the quickstart does, on activations computed once: what the sweeps here share."""

from dataclasses import replace

import torch
from sae_lens import ActivationsStore, LoggingConfig, TrainingSAE, TrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer
from sae_lens.util import temporary_seed
from tqdm.auto import tqdm

from sae_lens_ext import budget_curve
from sae_lens_ext.cli.quickstart.plan import Plan, runner_config
from sae_lens_ext.cli.sources import load_any_language_model, load_documents, split_documents
from sae_lens_ext.language_model import contexts

D_IN = 576
HELD_OUT_TOKENS = 16_384
KS = (8, 16, 32, 64)


def activations(plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the activations [N, d_in] of training and of held-out documents."""
    model = load_any_language_model(plan.model, plan.model_class, plan.device)
    sides = []
    for documents, n_tokens in zip(
        split_documents(load_documents(plan.dataset)), (plan.training_tokens, HELD_OUT_TOKENS), strict=True
    ):
        store = ActivationsStore.from_config_multi_hook(
            model,
            dataset=contexts(
                documents,
                model.tokenizer,
                context_size=plan.context_size,
                seed=plan.seed,
                at_least=plan.eval_contexts,
                what=plan.dataset,
            ),
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


def measured(trainer: SAETrainer, held_out: torch.Tensor) -> dict:
    """Give explained variance at each budget up to the SAE's own."""
    ks = [k for k in KS if k <= trainer.sae.cfg.k]
    curve = budget_curve(trainer.sae, held_out, ks)
    return {"explained_variance": dict(zip(map(str, ks), curve.explained_variance, strict=True))}


@torch.no_grad()
def silent_latents(trainer: SAETrainer, held_out: torch.Tensor) -> int:
    """Count the latents that fire on none of the held-out activations [N, d_in]."""
    fired = [(trainer.sae.encode(x) != 0).any(dim=0) for x in held_out.split(1024)]
    return int((~torch.stack(fired).any(dim=0)).sum())

"""The training SAEs that the speed benchmarks compare, each in SAELens' own trainer."""

from collections.abc import Callable, Iterator

import torch
from sae_lens import (
    LoggingConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
)

TOPK = "SAELens topk"
MATRYOSHKA = "SAELens matryoshka_batchtopk"
KRON = "kron, m = n = 4"
KRON_BUDGETS = "kron, m = n = 4, all budgets"
HIERARCHICAL = "hierarchical_topk, all budgets"
POWERS = "hierarchical_topk, powers of two"
PLAIN = "hierarchical_topk, budgets=(k,)"
OURS = (KRON, KRON_BUDGETS, HIERARCHICAL, POWERS, PLAIN)


def powers_of_two(k: int) -> tuple[int, ...]:
    """1, 2, 4, … and k."""
    return (*(2**i for i in range((k - 1).bit_length())), k)


def make(name: str, d_in: int, d_sae: int, k: int) -> TrainingSAE:
    """Build one of the SAEs above, at SAELens' default settings beside its size."""
    size = {"d_in": d_in, "d_sae": d_sae, "k": k}
    kron = {**size, "base_dim": 4, "extension_dim": 4}
    recipes: dict[str, Callable[[], TrainingSAE]] = {
        TOPK: lambda: TopKTrainingSAE(TopKTrainingSAEConfig(**size)),
        MATRYOSHKA: lambda: MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(
                **size, matryoshka_widths=[d_sae // 16, d_sae // 8, d_sae // 4, d_sae // 2, d_sae]
            )
        ),
        KRON: lambda: KronTrainingSAE(KronTrainingSAEConfig(**kron)),
        KRON_BUDGETS: lambda: KronTrainingSAE(KronTrainingSAEConfig(**kron, budgets="all")),
        HIERARCHICAL: lambda: HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(**size)),
        POWERS: lambda: HierarchicalTopKTrainingSAE(
            HierarchicalTopKTrainingSAEConfig(**size, budgets=powers_of_two(k))
        ),
        PLAIN: lambda: HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(**size, budgets=(k,))),
    }
    return recipes[name]()


def trainer(sae: TrainingSAE, batch_size: int, dead: int = 0) -> SAETrainer:
    """Put an SAE into SAELens' trainer as its runner would, with Adam.

    Args:
        sae: The SAE.
        batch_size: Tokens per step.
        dead: How many latents count as dead throughout, so that the dead-latent loss has work.
    """
    cfg = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=batch_size,
        device="cpu",
        autocast=False,
        lr=3e-4,
        lr_end=3e-5,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=0,
        n_restart_cycles=1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=10**6,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
    )
    made = _TrainerWithDead(cfg=cfg, sae=sae, data_provider=iter(()))
    made.is_dead = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    made.is_dead[torch.randperm(sae.cfg.d_sae, generator=torch.Generator().manual_seed(0))[:dead]] = True
    return made


class _TrainerWithDead(SAETrainer):
    """SAELens' trainer, told which latents are dead."""

    is_dead: torch.Tensor

    @property
    def dead_neurons(self) -> torch.Tensor:
        return self.is_dead


def endless(batches: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Go through the batches again and again."""
    while True:
        yield from batches

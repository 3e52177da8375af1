"""What the quickstart trains and how: one frozen record, and SAELens' configurations made from it."""

from dataclasses import asdict, dataclass
from typing import Any

from sae_lens import (
    LoggingConfig,
    MultiSAETrainingRunnerConfig,
    TopKTrainingSAEConfig,
    TrainingSAEConfig,
)

from sae_lens_ext.architectures import HierarchicalTopKTrainingSAEConfig, KronTrainingSAEConfig
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.plan_checks import require_learning_rate, require_one_step
from sae_lens_ext.cli.sources import EMBEDDED_MODEL, EMBEDDED_PREFIX

TOPK_BUDGETS = (8, 16, 32, 64)
KRON_LATENTS_PER_HEAD = 8
HIERARCHICAL = "hierarchical_topk_k64"
KRON = "kron_m2_n4_k32"
SAES = "saes"  # the folder they are saved in, and the one stage of training


@dataclass(frozen=True)
class Plan:
    """Everything that decides the quickstart's numbers; saved beside them."""

    model: str = EMBEDDED_MODEL
    model_class: str = "TransformerBridge"
    hook: str = "blocks.10.hook_out"  # resid_post of layer 10, as TransformerBridge calls it
    dataset: str = f"{EMBEDDED_PREFIX}encyclopedia"
    training_tokens: int = 300_000
    d_sae: int = 2048
    context_size: int = 128
    train_batch_size_tokens: int = 1024
    lr: float = 3.2e-3  # the best of benchmarks/learning_rate.py for all of them
    dead_window_steps: int = 50
    eval_batches_ev: int = 16
    eval_batches_ce: int = 2
    eval_batch_prompts: int = 8
    n_checkpoints: int = 3
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        smallest = max(TOPK_BUDGETS)
        if self.d_sae < smallest or self.d_sae % KRON_LATENTS_PER_HEAD:
            raise CommandError(
                f"--d-sae {self.d_sae} does not do: the largest budget is {smallest}, and Kron's heads hold "
                f"{KRON_LATENTS_PER_HEAD} latents. Give a multiple of {KRON_LATENTS_PER_HEAD} from {smallest} up."
            )
        require_one_step(self.training_tokens, self.train_batch_size_tokens)
        require_learning_rate(self.lr, Plan.lr)

    @property
    def training_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.training_tokens // self.train_batch_size_tokens

    @property
    def eval_contexts(self) -> int:
        """Held-out contexts that an evaluation reads."""
        return (self.eval_batches_ev + self.eval_batches_ce) * self.eval_batch_prompts

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as JSON scalars."""
        return asdict(self)


def sae_configs(plan: Plan, d_in: int) -> dict[str, TrainingSAEConfig]:
    """Give the six SAEs by name: SAELens' TopK at four budgets, one HierarchicalTopK for all, one Kron."""
    size: dict[str, Any] = {"d_in": d_in, "d_sae": plan.d_sae, "device": plan.device}
    return {
        **{topk_name(k): TopKTrainingSAEConfig(k=k, **size) for k in TOPK_BUDGETS},
        HIERARCHICAL: HierarchicalTopKTrainingSAEConfig(k=max(TOPK_BUDGETS), **size),
        KRON: KronTrainingSAEConfig(k=32, base_dim=2, extension_dim=4, **size),
    }


def topk_name(k: int) -> str:
    """Name of the plain TopK SAE with budget k."""
    return f"topk_k{k}"


def runner_config(
    plan: Plan, d_in: int, *, checkpoint_path: str, output_path: str, resume_from: str | None
) -> MultiSAETrainingRunnerConfig:
    """Configure SAELens' multi-SAE runner: one forward pass of the model serves all SAEs."""
    return MultiSAETrainingRunnerConfig(
        saes=sae_configs(plan, d_in),
        hook_names=plan.hook,
        model_name=plan.model,
        model_class_name=plan.model_class,
        dataset_path=plan.dataset,
        context_size=plan.context_size,
        training_tokens=plan.training_tokens,
        train_batch_size_tokens=plan.train_batch_size_tokens,
        store_batch_size_prompts=16,
        n_batches_in_buffer=64,
        autocast_lm=True,
        exclude_special_tokens=True,
        lr=plan.lr,
        lr_scheduler_name="constant",
        lr_warm_up_steps=plan.training_steps // 20,
        lr_decay_steps=plan.training_steps // 5,
        dead_feature_window=plan.dead_window_steps,
        n_batches_for_norm_estimate=10,
        n_checkpoints=plan.n_checkpoints,
        checkpoint_path=checkpoint_path,
        output_path=output_path,
        resume_from_checkpoint=resume_from,
        seed=plan.seed,
        device=plan.device,
        # SAELens adds a random folder to checkpoint_path unless the run has an id; ours must be found again.
        logger=LoggingConfig(log_to_wandb=False, wandb_id="run"),
    )

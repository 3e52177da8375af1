"""What `augment` trains and how: one frozen record, made from the base's own metadata and the options."""

from dataclasses import asdict, dataclass
from typing import Any

from sae_lens import SAE, LanguageModelSAERunnerConfig, LoggingConfig

from sae_lens_ext.architectures.residual import ResidualTrainingSAEConfig
from sae_lens_ext.architectures.residual_stack import BASE
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.plan_checks import require_learning_rate, require_one_step
from sae_lens_ext.cli.sources import EMBEDDED_MODEL, EMBEDDED_PREFIX

GENERAL = "general"  # the name of the general text in reports
EVERYTHING = "all domains"  # the stack with all domains on
ALONE = BASE  # the stack with none


@dataclass(frozen=True)
class Plan:
    """Everything that decides the numbers of an augmentation; saved beside them."""

    base_path: str | None
    base_release: str | None
    base_sae_id: str | None
    domains: dict[str, str]
    general: str | None
    general_fraction: float
    model: str
    model_class: str
    hook: str
    context_size: int
    d_sae: int = 1024
    k: float = 5
    training_tokens: int | None = None
    train_batch_size_tokens: int = 1024
    lr: float = 2e-3
    dead_window_steps: int = 100
    n_checkpoints: int = 5
    eval_tokens: int = 16_384
    latent_tokens: int = 65_536
    eval_batch_prompts: int = 8
    n_latents: int = 10
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in self.domains:
            if name in (GENERAL, EVERYTHING, ALONE) or not name.replace("_", "").replace("-", "").isalnum():
                raise CommandError(
                    f"--domain {name}={self.domains[name]}: the name {name!r} does not do. Use letters, digits, - and _, and "
                    f"none of {GENERAL}, {ALONE}, which name other things in the report."
                )
        if self.context_size < 2:
            raise CommandError(
                f"--context-size {self.context_size} leaves no room for text after BOS. Give at least 2 tokens, such as 128."
            )
        if self.general_fraction > 0 and not self.general:
            raise CommandError(
                f"--general-fraction {self.general_fraction} asks for general text, but there is none (--general none). Name "
                "one, or set --general-fraction 0."
            )
        if not 0 <= self.general_fraction < 1:
            raise CommandError(
                f"--general-fraction {self.general_fraction} is out of range. Give a share from 0 up to but not including 1."
            )
        if self.training_tokens is not None:
            require_one_step(self.training_tokens, self.train_batch_size_tokens)
        require_learning_rate(self.lr, Plan.lr)

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as JSON scalars and mappings."""
        return asdict(self)


def general_text_of(base: SAE[Any], model: str, named: str | None) -> str | None:
    """Say which general text to use: the user's ("none" for none), else what the base was trained on.

    Raises:
        CommandError: The user names none, and the base does not say what it was trained on.
    """
    if named is not None:
        return None if named in ("none", "") else named
    recorded = base.cfg.metadata.dataset_path
    if recorded:  # SAELens writes "" when a run's data set was handed to it
        return recorded
    if model == EMBEDDED_MODEL:
        return f"{EMBEDDED_PREFIX}encyclopedia"
    raise CommandError(
        "The base SAE does not say which text it was trained on, and some of such text keeps it from harm. Name one with "
        "--general, or go without by --general none --general-fraction 0."
    )


def training_tokens(plan: Plan, n_contexts: int) -> int:
    """Tokens of a domain's run: those the user asks for, else every context once; in whole steps.

    Raises:
        CommandError: That is not one step.
    """
    asked = plan.training_tokens or n_contexts * (plan.context_size - 1)
    steps = asked // plan.train_batch_size_tokens
    if steps == 0:
        raise CommandError(
            f"{n_contexts} contexts of {plan.context_size} tokens are less than one training step of "
            f"{plan.train_batch_size_tokens} tokens. Give more text, or repeat it with --training-tokens."
        )
    return steps * plan.train_batch_size_tokens


def sae_config(plan: Plan, d_in: int, *, training_tokens: int) -> ResidualTrainingSAEConfig:
    """Configure the residual SAE of a domain."""
    steps = training_tokens // plan.train_batch_size_tokens
    return ResidualTrainingSAEConfig(
        d_in=d_in,
        d_sae=plan.d_sae,
        k=plan.k,
        # The threshold that is saved is a running mean that starts at 0: a short run needs a faster one than SAELens' 0.01.
        topk_threshold_lr=min(0.1, max(0.01, 20 / steps)),
        base_path=plan.base_path,
        base_release=plan.base_release,
        base_sae_id=plan.base_sae_id,
        device=plan.device,
    )


def runner_config(
    plan: Plan, sae_cfg: ResidualTrainingSAEConfig, *, training_tokens: int, **fields: Any
) -> LanguageModelSAERunnerConfig:
    """Configure SAELens' runner for one domain.

    Args:
        plan: The plan.
        sae_cfg: The residual SAE.
        training_tokens: Tokens of the domain's run.
        **fields: Further fields of the runner: where to save, what to resume.
    """
    steps = training_tokens // plan.train_batch_size_tokens
    return LanguageModelSAERunnerConfig(
        sae=sae_cfg,
        model_name=plan.model,
        model_class_name=plan.model_class,
        hook_name=plan.hook,
        context_size=plan.context_size,
        training_tokens=training_tokens,
        train_batch_size_tokens=plan.train_batch_size_tokens,
        store_batch_size_prompts=16,
        n_batches_in_buffer=64,
        autocast_lm=True,
        exclude_special_tokens=True,
        lr=plan.lr,
        lr_scheduler_name="constant",
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        dead_feature_window=plan.dead_window_steps,
        n_checkpoints=plan.n_checkpoints,
        seed=plan.seed,
        device=plan.device,
        # SAELens adds a random folder to checkpoint_path unless the run has an id; ours must be found again.
        logger=LoggingConfig(log_to_wandb=False, wandb_id="run"),
        **fields,
    )

"""Synthetic sparse activations, and a trainer that runs on them in milliseconds."""

from collections.abc import Iterator
from typing import Any

import torch
from sae_lens import TrainingSAE
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.training.sae_trainer import SAETrainer

D_IN = 16
D_SAE = 64
K = 4
BATCH = 64


def sparse_activations(n: int, seed: int = 0, scale: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    """Rows that are sums of a few of 24 fixed directions, [n, 16]."""
    directions = torch.randn(24, D_IN, generator=torch.Generator().manual_seed(1234))
    generator = torch.Generator().manual_seed(seed)
    strengths = torch.rand(n, 24, generator=generator) * (torch.rand(n, 24, generator=generator) < 0.12)
    noise = 0.01 * torch.randn(n, D_IN, generator=generator)
    return scale * (strengths @ (directions / directions.norm(dim=-1, keepdim=True)) + noise) + offset


def batches(seed: int = 0, batch: int = BATCH, **kwargs: Any) -> Iterator[torch.Tensor]:
    """An endless stream of fresh batches."""
    while True:
        yield sparse_activations(batch, seed=seed, **kwargs)
        seed += 1


def make_trainer(
    sae: TrainingSAE[Any], data: Iterator[torch.Tensor] | None = None, **overrides: Any
) -> SAETrainer[Any, Any]:
    """SAELens' trainer with everything that leaves the process switched off."""
    fields: dict[str, Any] = {
        "total_training_samples": BATCH * 64,
        "train_batch_size_samples": BATCH,
        "lr": 5e-3,
        "lr_end": 5e-4,
        "n_batches_for_norm_estimate": 4,
        "logger": LoggingConfig(log_to_wandb=False),
    }
    cfg = SAETrainerConfig(**{**fields, **overrides})
    return SAETrainer(cfg=cfg, sae=sae, data_provider=batches() if data is None else data)


def run_steps(
    trainer: SAETrainer[Any, Any], data: Iterator[torch.Tensor], steps: int
) -> list[TrainStepOutput]:
    """Some of the trainer's steps, counted as `fit` counts them."""
    outputs = []
    for _ in range(steps):
        outputs.append(trainer.step(next(data)))
        trainer.n_training_steps += 1
    return outputs


def train(sae: TrainingSAE[Any], steps: int, **overrides: Any) -> list[TrainStepOutput]:
    """Train an SAE in place and return what each step gave."""
    return run_steps(make_trainer(sae, **overrides), batches(), steps)


def step_input(x: torch.Tensor, dead: torch.Tensor | None = None) -> TrainStepInput:
    """What the trainer hands to `training_forward_pass`."""
    return TrainStepInput(
        sae_in=x, coefficients={}, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False
    )


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference over the norm of what was expected."""
    expected = expected.float()
    return ((actual.float() - expected).norm() / expected.norm()).item()


def copy_of_state(sae: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, cloned, so that later changes do not reach it."""
    return {name: tensor.clone() for name, tensor in sae.state_dict().items()}


def same_state(sae: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    """Whether nothing in the state dict has changed since."""
    after = sae.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)

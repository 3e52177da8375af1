"""What SAELens' trainers do not set right themselves when they go on from a checkpoint."""

from typing import Any

from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from sae_lens.training.sae_trainer import SAETrainer


def go_on_counting(trainer: SAETrainer[Any, Any] | MultiSAETrainer) -> None:
    """Set a trainer's steps and the checkpoints it will write, once its state is loaded.

    SAELens saves before it counts the step. And the checkpoints that an interrupted run has passed would be written one after the other, at
    the steps that come next.
    """
    trainer.n_training_steps = trainer.n_training_samples // trainer.cfg.train_batch_size_samples
    trainer.checkpoint_thresholds = [
        tokens for tokens in trainer.checkpoint_thresholds if tokens >= trainer.n_training_samples
    ]

"""SAELens' trainer with its step taken apart, so that the ranks of a job can share it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE, TrainStepInput, TrainStepOutput
from sae_lens.training.sae_trainer import Evaluator, SAETrainer, SaveCheckpointFn
from typing_extensions import override

from sae_lens_ext.checkpoints import seal_checkpoint
from sae_lens_ext.files import whole_folder
from sae_lens_ext.ranks import RankError, Ranks
from sae_lens_ext.training.going_on import go_on_counting


class ParallelTrainer(SAETrainer[Any, Any], ABC):
    """Takes SAELens' training steps together with the other ranks; alone, it is SAELens' trainer to the bit.

    `cfg` speaks of the whole batch. Only the first rank writes checkpoints, in SAELens' form, so that any number of ranks, a single process and
    SAELens itself can go on from them.

    Args:
        cfg: SAELens' configuration, the same on every rank but for the device.
        sae: What this rank trains.
        data_provider: This rank's rows of each batch.
        ranks: Who trains.
        whole_batches: The same stream as whole batches, for normalisation statistics; None where `data_provider` gives them.
        evaluator: As in SAELens, on the first rank.
        save_checkpoint_fn: As in SAELens, on the first rank.
        log_every: Steps between two whose losses are averaged over the ranks for the log; None for never.
    """

    def __init__(
        self,
        cfg: SAETrainerConfig,
        sae: TrainingSAE[Any],
        data_provider: Iterator[torch.Tensor],
        ranks: Ranks,
        *,
        whole_batches: Iterator[torch.Tensor] | None = None,
        evaluator: Evaluator[Any] | None = None,
        save_checkpoint_fn: SaveCheckpointFn | None = None,
        log_every: int | None = None,
    ) -> None:
        super().__init__(cfg, sae, data_provider, evaluator, save_checkpoint_fn)
        self.ranks = ranks
        self._whole_batches = whole_batches or data_provider
        self._log_every = log_every

    @abstractmethod
    def _fired(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Count on how many rows of the whole batch each latent of this rank's SAE fires, [latents], float32."""

    @abstractmethod
    def _reduce_gradients(self) -> None:
        """Make the gradients those of the whole batch."""

    @abstractmethod
    def _clip_gradients(self) -> None:
        """Scale the gradients so that the norm of all of them, over all latents, is at most 1."""

    @abstractmethod
    def _reduce_losses(self, output: TrainStepOutput) -> None:
        """Make the losses those of the whole batch, in place, for the log."""

    @override
    def fit(self) -> TrainingSAE[Any]:
        """Train to the end, as SAELens does."""
        self._estimate_normalisation()
        return super().fit()

    @override
    def step(self, batch: torch.Tensor) -> TrainStepOutput:
        """Take one step on this rank's rows of a batch, [rows, d_in]; the samples that are counted are the whole batch's."""
        output = super().step(batch)
        self.n_training_samples += self.cfg.train_batch_size_samples - len(batch)
        return output

    @override
    def _train_step(self, sae: TrainingSAE[Any], sae_in: torch.Tensor) -> TrainStepOutput:
        sae.train()
        with self.autocast_if_enabled:
            output = sae.training_forward_pass(
                step_input=TrainStepInput(
                    sae_in=sae_in,
                    dead_neuron_mask=self.dead_neurons,
                    coefficients=self.get_coefficients(),
                    n_training_steps=self.n_training_steps,
                    is_logging_step=self._is_logging_step(),
                ),
            )
            self._count_firings(output.feature_acts)
        output.loss.backward()
        self._reduce_gradients()
        self._clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        for scheduler in self.coefficient_schedulers.values():
            scheduler.step()
        if self._log_every is not None and (self.n_training_steps + 1) % self._log_every == 0:
            self._reduce_losses(output)
        return output

    @torch.no_grad()
    def _count_firings(self, feature_acts: torch.Tensor) -> None:
        fired = self._fired(feature_acts)
        self.n_forward_passes_since_fired += 1
        self.n_forward_passes_since_fired[fired > 0] = 0
        self.act_freq_scores += fired
        self.n_frac_active_samples += self.cfg.train_batch_size_samples

    def _estimate_normalisation(self) -> None:
        """Do what SAELens does at the beginning of `fit`, on whole batches: every rank finds the same statistics."""
        mode, scaler, cfg = self.sae.cfg.normalize_activations, self.activation_scaler, self.cfg
        known = {"d_in": self.sae.cfg.d_in, "n_batches_for_norm_estimate": cfg.n_batches_for_norm_estimate}
        if mode == "expected_average_only_in" and scaler.scaling_factor is None:
            scaler.estimate_scaling_factor(data_provider=self._whole_batches, **known)
        elif mode == "covariance_whitening" and scaler.whitening is None:
            scaler.estimate_whitening(data_provider=self._whole_batches, **known)

    @override
    def save_checkpoint(
        self,
        checkpoint_name: str,
        base_path: Path | str | None = None,
        wandb_aliases: list[str] | None = None,
    ) -> None:
        """Save as SAELens does, by the first rank; the folder is whole or not there."""
        self._require_agreement()
        base = base_path if base_path is not None else self.cfg.checkpoint_path
        if base is not None and self.ranks.is_first:
            with whole_folder(Path(base) / checkpoint_name) as aside:
                self._write_checkpoint(aside.name, aside.parent, wandb_aliases)
                seal_checkpoint(aside)
        else:
            self._write_checkpoint(checkpoint_name, None, wandb_aliases)
        self.ranks.tell.wait(f"saving the checkpoint {checkpoint_name}")

    def _write_checkpoint(self, name: str, base: Path | None, wandb_aliases: list[str] | None) -> None:
        """Write SAELens' files into `base / name`; called on every rank, with a folder on the first one."""
        if self.ranks.is_first:
            super().save_checkpoint(name, base, wandb_aliases)

    def resume(self, checkpoint: Path) -> None:
        """Take weights and state from a checkpoint that SAELens or any number of ranks has written.

        Args:
            checkpoint: Its folder.
        """
        self.load_trainer_state(checkpoint)
        self.sae.load_weights_from_checkpoint(checkpoint)
        go_on_counting(self)

    def _require_agreement(self) -> None:
        """Raise RankError if the parameters that should be equal on all ranks are not."""
        if self.ranks.size == 1:
            return
        sums = torch.stack([p.detach().sum(dtype=torch.float64).cpu() for p in self._shared_parameters()])
        of_all = self.ranks.tell.gather(sums, "comparing the weights")
        if not torch.equal(
            of_all.view(torch.int64), of_all[:1].expand_as(of_all).view(torch.int64)
        ):  # NaN equals NaN
            raise RankError(
                f"After {self.n_training_samples} tokens the ranks' weights are no longer equal, so nothing was saved. Give every rank the same "
                "kind of device and the same versions, and go on from the last checkpoint."
            )

    def _shared_parameters(self) -> list[torch.Tensor]:
        """Give the parameters that are the same on every rank."""
        return list(self.sae.parameters())

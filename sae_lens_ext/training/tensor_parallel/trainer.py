"""Tensor parallel training: every rank sees the whole batch and trains its share of the latents."""

import copy
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import ACTIVATION_SCALER_CFG_FILENAME, TRAINER_STATE_FILENAME
from sae_lens.saes.sae import TrainStepOutput
from sae_lens.training.sae_trainer import SAETrainer
from typing_extensions import override

from sae_lens_ext.training.tensor_parallel.gradients import clip_divided_gradients_
from sae_lens_ext.training.tensor_parallel.moments import joined_optimizer_state, share_of_optimizer_state
from sae_lens_ext.training.tensor_parallel.sae import DividedTopKTrainingSAE
from sae_lens_ext.training.tensor_parallel.shares import joined_tensor, own_latents, share_of_tensor
from sae_lens_ext.training.trainer import ParallelTrainer

PER_LATENT = ("act_freq_scores", "n_forward_passes_since_fired")


class TensorParallelTrainer(ParallelTrainer):
    """Trains a `DividedTopKTrainingSAE`: the steps are those of one process, but for the order in which sums are rounded.

    Args and the rest: as in ParallelTrainer; `data_provider` gives the same whole batches to every rank. Numbers that are kept for each latent, such as
    `dead_neurons`, are of this rank's latents, but for `feature_sparsity`.

    Raises:
        ValueError: The SAE is not divided, or there is an evaluator, which would run it on the first rank alone.
    """

    sae: DividedTopKTrainingSAE
    n_forward_passes_since_fired: torch.Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not isinstance(self.sae, DividedTopKTrainingSAE):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"{type(self.sae).__name__} is not divided over ranks by its latents. Give a DividedTopKTrainingSAE."
            )
        if self.evaluator is not None and self.ranks.size > 1:
            raise ValueError(
                "An evaluator runs on the first rank alone, which holds a share of the SAE's latents. Leave it out, and evaluate the SAE that is saved."
            )
        self._of_all_latents: dict[str, float] = {}

    @property
    @override
    def feature_sparsity(self) -> torch.Tensor:
        """How often each latent of the whole SAE fires, [d_sae]; all ranks must ask."""
        found = self.ranks.tell.gather(self.act_freq_scores, "joining the latents' firing counts")
        return found.flatten() / self.n_frac_active_samples

    @override
    def set_final_sae_metadata(self) -> None:
        super().set_final_sae_metadata()
        if self.n_frac_active_samples > 0:
            dead = self.dead_neurons.sum()
            self.sae.cfg.metadata.num_dead_features = int(
                self.ranks.tell.reduce_(dead, "sum", "counting the dead latents")
            )

    @override
    def _fired(self, feature_acts: torch.Tensor) -> torch.Tensor:
        fired = feature_acts.bool().float().sum(-2)
        return fired.to_dense() if fired.is_sparse else fired

    @override
    def _reduce_gradients(self) -> None:
        """Nothing to do: they are those of the whole batch, and those of b_dec were summed on the way."""

    @override
    def _clip_gradients(self) -> None:
        clip_divided_gradients_(self.sae.named_parameters(), 1.0, self.ranks)  # SAELens' own bound

    @override
    @torch.no_grad()
    def _reduce_losses(self, output: TrainStepOutput) -> None:
        """The losses are the whole batch's; what else is logged is found for all latents."""
        own = torch.stack(
            [
                output.feature_acts.bool().float().sum() / len(output.sae_in),
                self.n_forward_passes_since_fired.mean() / self.ranks.size,
                self.dead_neurons.sum().float(),
            ]
        )
        names = ("metrics/l0", "sparsity/mean_passes_since_fired", "sparsity/dead_features")
        of_all = self.ranks.tell.reduce_(own, "sum", "counting the latents that fire").tolist()
        self._of_all_latents = dict(zip(names, of_all, strict=True))

    @override
    def build_train_step_log_dict(self, output: TrainStepOutput, n_training_samples: int) -> dict[str, Any]:
        return {**super().build_train_step_log_dict(output, n_training_samples), **self._of_all_latents}

    @override
    def _shared_parameters(self) -> list[torch.Tensor]:
        return [self.sae.b_dec]

    @override
    def _write_checkpoint(self, name: str, base: Path | None, wandb_aliases: list[str] | None) -> None:
        """Write the undivided SAE's checkpoint by the first rank; the others give it their shares, in the order in which it asks."""
        written = base is not None or self.cfg.logger.log_to_wandb
        written = self.ranks.tell.from_first(written, f"saving the checkpoint {name}")
        super()._write_checkpoint(name, base, wandb_aliases)
        if written and not self.ranks.is_first:
            nowhere = Path()
            self.sae.save_model(nowhere)
            _ = self.feature_sparsity
            self.save_trainer_state(nowhere)

    @override
    def save_trainer_state(self, checkpoint_path: Path) -> None:
        """Write SAELens' trainer state of the undivided SAE, by the first rank; all must ask."""
        names = [name for name, _ in self.sae.named_parameters()]
        optimizer = joined_optimizer_state(self.optimizer.state_dict(), names, self.ranks)
        counts = {
            name: joined_tensor(getattr(self, name), 0, self.ranks, f"joining the ranks' {name}")
            for name in PER_LATENT
        }
        if optimizer is not None:
            whole = copy.copy(self)  # so that SAELens' own function writes what it writes
            whole.optimizer = _Saved(optimizer)  # type: ignore[assignment]
            for name, count in counts.items():
                setattr(whole, name, count)
            SAETrainer.save_trainer_state(whole, checkpoint_path)

    @override
    def load_trainer_state(self, checkpoint_path: Path | str) -> None:
        """Take this rank's share of a trainer state that SAELens or any number of ranks has written, and read no more.

        Raises:
            ValueError: It is the state of an SAE of another size.
        """
        folder = Path(checkpoint_path)
        self.activation_scaler.load(folder / ACTIVATION_SCALER_CFG_FILENAME)
        state = torch.load(folder / TRAINER_STATE_FILENAME, map_location="cpu", mmap=True, weights_only=True)
        d_sae, found = self.sae.cfg.d_sae * self.ranks.size, len(state["act_freq_scores"])
        if found != d_sae:
            raise ValueError(
                f"{folder} holds the state of training {found} latents, but the SAE has {d_sae}. Give a checkpoint of an SAE with the same d_sae."
            )
        own = own_latents(d_sae, self.ranks)
        self.optimizer.load_state_dict(
            share_of_optimizer_state(state["optimizer"], self.sae.named_parameters(), own)
        )
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        for name in PER_LATENT:
            setattr(self, name, share_of_tensor(state[name], 0, own).to(self.cfg.device))
        for name in (
            "n_training_samples",
            "n_training_steps",
            "n_frac_active_samples",
            "started_fine_tuning",
        ):
            setattr(self, name, state[name])
        for name, scheduler in state["coefficient_schedulers"].items():
            self.coefficient_schedulers[name].load_state_dict(scheduler)


class _Saved:
    """Something with a state to be saved."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        return self._state

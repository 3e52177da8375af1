"""The training step of the SAEs that keep k latents per token, without a vector of F numbers per token.

HierarchicalTopK and Kron differ in how they find a token's k best latents. From there on they are one:
the loss over their budgets, the dead-latent loss and the bookkeeping, which gets the latents as a
sparse tensor. Where dense tensors are wanted (`goes_dense`), the step makes them with
`encode_with_hidden_pre`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import TopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from typing_extensions import override

from sae_lens_ext.architectures.ranked_latents import (
    RankedLatents,
    as_coo,
    encoder_input,
    goes_dense,
    top_k_of_acts,
)
from sae_lens_ext.architectures.sae_checks import ChecksInput
from sae_lens_ext.architectures.saving import SavedWhole
from sae_lens_ext.architectures.training_step import require_finite_activations, train_step_output
from sae_lens_ext.ops import dead_latent_loss, multi_budget_loss, squared_error


@dataclass(frozen=True)
class DeadLatents:
    """What the dead-latent loss needs to know of the N dead latents."""

    activations: Callable[..., torch.Tensor]
    """Gives their activations [B, N] from the encoder's input and the parameters."""
    parameters: tuple[torch.Tensor, ...]
    """The weights that `activations` uses, as functions of the SAE's."""
    rows: torch.Tensor
    """What the activations are multiplied with, shape [N, d_in]."""
    rank_scale: torch.Tensor | None
    """They are ranked by activation times this, shape [N]; None for 1."""


class RankedTrainingSAE(SavedWhole, ChecksInput, TopKTrainingSAE, ABC):
    """A TopK training SAE that works on (values, indices); its configuration has `levels`."""

    cfg: Any
    unit_rows = False
    """Whether `_rank` gives weights of normalised rows, and not of the rows as they are."""

    @abstractmethod
    def _rank(self, x: torch.Tensor, k: int) -> RankedLatents:
        """Find the k best latents of each token; x [B, d_in] as `encoder_input` gives it."""

    @abstractmethod
    def _ranked_from_dense(self, acts: torch.Tensor, indices: torch.Tensor) -> RankedLatents:
        """Do as `_rank` for latents taken from the dense encoding; acts and indices are [B, K]."""

    @abstractmethod
    def _dead_latents(self, latents: torch.Tensor) -> DeadLatents:
        """Describe the dead latents of the given indices, shape [N]."""

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Take SAELens' TopK training step with the loss over budgets in place of the squared error.

        Args:
            step_input: Batch of activations [B, d_in] and what the trainer knows of the step.

        Returns:
            The step's output. `losses["mse_loss"]` is summed over d_in, averaged over tokens and over
            budgets. `sae_out` is the reconstruction with the largest budget, detached: hooks on
            `hook_sae_recons` see it and cannot change the loss. `feature_acts` and `hidden_pre` are the
            latents kept, as one detached sparse COO tensor [B, d_sae], unless hooks ask for dense ones.

        Raises:
            NonFiniteTrainingError: The activations or the loss hold NaN or infinity.
        """
        require_finite_activations(step_input)
        x, n_kept = step_input.sae_in, self.cfg.levels[-1]
        if goes_dense(self):
            feature_acts, hidden_pre = self.encode_with_hidden_pre(x)
            latents = self._ranked_from_dense(*top_k_of_acts(feature_acts, n_kept))
            feature_acts = feature_acts.detach()
        else:
            latents = self._rank(encoder_input(self, x), n_kept)
            feature_acts = hidden_pre = as_coo(latents, self.cfg.d_sae)
        mse_loss, reconstruction = self.reconstruction_loss(latents, x)
        sae_out = self.hook_sae_recons(reconstruction)
        return train_step_output(
            step_input,
            sae_out=sae_out,
            feature_acts=feature_acts,
            hidden_pre=hidden_pre,
            mse_loss=mse_loss,
            aux_losses=self.calculate_aux_loss(step_input, feature_acts, hidden_pre, reconstruction),
            metrics={"mse_loss_full_budget": lambda: squared_error(sae_out, x)},
        )

    def reconstruction_loss(
        self, latents: RankedLatents, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the loss that the step is about, here the mean over the budgets of the squared error; a subclass may have another.

        Args:
            latents: The latents that each token keeps, [B, K] each; gradients reach the parameters through `latents.weights`.
            x: What is to be reconstructed, [B, d_in].

        Returns:
            The loss, a scalar in float32 or better; and the reconstruction with all latents kept, detached, [B, d_in]: what is
            logged, and what the dead latents' loss takes the error of.
        """
        return multi_budget_loss(
            latents.weights,
            latents.indices,
            self.W_dec,
            self.b_dec,
            x,
            self.cfg.levels,
            unit_rows=self.unit_rows,
        )

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Let the best d_in/2 dead latents rebuild the error, as SAELens' TopK does.

        Given sparse `hidden_pre`, only the dead latents are encoded; given dense ones, they are read from it.
        """
        if not hidden_pre.is_sparse:
            return super().calculate_aux_loss(step_input, feature_acts, hidden_pre, sae_out)
        loss = sae_out.new_zeros(())
        dead = step_input.dead_neuron_mask
        n_dead = 0 if dead is None else int(dead.sum())
        if dead is not None and n_dead > 0 and self.cfg.aux_loss_coefficient != 0:
            x = step_input.sae_in
            half = max(1, x.shape[-1] // 2)
            k = min(half, n_dead)
            found = self._dead_latents(dead.nonzero().flatten())
            loss = dead_latent_loss(
                found.activations,
                encoder_input(self, x),
                x - sae_out,
                found.parameters,
                found.rows,
                k,
                found.rank_scale,
            )
            loss = self.cfg.aux_loss_coefficient * min(n_dead / half, 1.0) * loss
        return {"auxiliary_reconstruction_loss": loss}

"""What the training steps of our architectures share: refusing non-finite numbers, summing losses."""

from collections.abc import Mapping
from typing import Any

import torch
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput


class NonFiniteTrainingError(ValueError):
    """A training step met NaN or infinity and stopped before the SAE's weights were touched."""


def require_finite_activations(step_input: TrainStepInput) -> None:
    """Raise NonFiniteTrainingError if the batch holds NaN or infinity.

    Args:
        step_input: The step about to be taken; `sae_in` has shape [B, d_in].
    """
    sae_in = step_input.sae_in
    if torch.isfinite(sae_in).all():
        return
    bad_rows = (~torch.isfinite(sae_in)).any(dim=-1).nonzero().flatten()
    raise NonFiniteTrainingError(
        f"Training step {step_input.n_training_steps}: {len(bad_rows)} of the {len(sae_in)} activations in "
        f"this batch hold NaN or infinity (the first is row {int(bad_rows[0])}). The SAE was not updated and "
        "checkpoints written before this step are intact. Look at the model's precision at this hook "
        "(float16 overflows where bfloat16 does not) and at the text being read, then resume from the last "
        "checkpoint."
    )


def train_step_output(
    step_input: TrainStepInput,
    *,
    sae_out: torch.Tensor,
    feature_acts: torch.Tensor,
    hidden_pre: torch.Tensor,
    mse_loss: torch.Tensor,
    aux_losses: Mapping[str, torch.Tensor],
    metrics: Mapping[str, Any],
) -> TrainStepOutput:
    """Add up the losses of a step and wrap them as SAELens' trainer wants them.

    Args:
        step_input: The step taken.
        sae_out: Reconstruction to log against `step_input.sae_in`, shape [B, d_in].
        feature_acts: Latents, shape [B, d_sae].
        hidden_pre: Pre-activations.
        mse_loss: The main loss, a scalar.
        aux_losses: Further losses by name; each is added with weight 1.
        metrics: Further numbers to log; callables are evaluated when logged.

    Returns:
        The output of the step, its `loss` the sum of all losses.

    Raises:
        NonFiniteTrainingError: The total loss is NaN or infinite.
    """
    losses = {"mse_loss": mse_loss, **aux_losses}
    loss = torch.stack([value.to(mse_loss.dtype) for value in losses.values()]).sum()
    if not torch.isfinite(loss):
        parts = ", ".join(f"{name} = {value.item()}" for name, value in losses.items())
        raise NonFiniteTrainingError(
            f"Training step {step_input.n_training_steps}: the loss is not finite ({parts}) although the "
            "activations are. The SAE was not updated and checkpoints written before this step are intact. "
            "Lower the learning rate or train in float32, then resume from the last checkpoint."
        )
    return TrainStepOutput(
        sae_in=step_input.sae_in,
        sae_out=sae_out,
        feature_acts=feature_acts,
        hidden_pre=hidden_pre,
        loss=loss,
        losses=losses,
        metrics=dict(metrics),
    )

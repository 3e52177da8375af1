"""What functions of SAEs check before they begin: that they were given an SAE with weights, and activations that it can read."""

import math
from typing import Any

import torch
from sae_lens import SAE


def require_sae(caller: str, name: str, sae: Any) -> Any:
    """Return `sae` if it is an SAE whose weights are numbers, else raise ValueError.

    Args:
        caller: Function the SAE was given to, for messages.
        name: Its name there.
        sae: What the user gave.
    """
    if not isinstance(sae, SAE):
        raise ValueError(
            f"{caller} was given {name} of type {type(sae).__name__}, which is no SAE. Give an SAE; load_sae(folder) loads one."
        )
    if any(parameter.is_meta for parameter in sae.parameters()):
        raise ValueError(
            f"{caller} was given {name}, an SAE on the meta device, where weights are shapes without numbers. Load it onto a device that holds some, "
            "such as the CPU."
        )
    return sae


def require_sae_input(sae: Any, x: Any) -> None:
    """Raise ValueError unless an SAE can read activations: a tensor on its device, real, of its width (heads flattened or not).

    Args:
        sae: Any SAE.
        x: What the user gave.
    """
    d_in, heads = sae.cfg.d_in, sae.hook_z_reshaping_mode
    wanted = f"[..., n_heads, d_head] with n_heads · d_head = {d_in}" if heads else f"[..., {d_in}]"
    if not isinstance(x, torch.Tensor) or x.is_complex():
        what = str(x.dtype) if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(
            f"{type(sae).__name__} was given activations x of type {what}. Give a tensor of real numbers, {wanted}."
        )
    if x.device != sae.W_dec.device:
        raise ValueError(
            f"{type(sae).__name__} is on {sae.W_dec.device} and was given activations x on {x.device}. Move one to the other, as with x.to(sae.device)."
        )
    width = math.prod(x.shape[-2:] if heads else x.shape[-1:])
    if x.ndim < 1 + bool(heads) or width != d_in:
        raise ValueError(
            f"{type(sae).__name__} was given activations x of the shape {tuple(x.shape)}, but has d_in = {d_in}. Give {wanted}, of the SAE's own hook."
        )


class ChecksInput:
    """Mixed into an SAE: the dense encoding refuses what the SAE cannot read, where PyTorch would broadcast or fail."""

    def process_sae_in(self, sae_in: torch.Tensor) -> torch.Tensor:
        """Prepare activations for the encoder, as SAELens does.

        Raises:
            ValueError: They are no activations of this SAE.
        """
        require_sae_input(self, sae_in)
        return super().process_sae_in(sae_in)  # type: ignore[misc]

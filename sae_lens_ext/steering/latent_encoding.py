"""The activations of a few latents: by their own columns of the encoder where that is enough, by all of the SAE elsewhere."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE, JumpReLUSAE, StandardSAE
from sae_lens.saes.sae import _disable_hooks

from sae_lens_ext.analysis.splicing import reconstruct
from sae_lens_ext.architectures.head_reshaping import flat_heads

_SCALED_BY_TOKEN = ("layer_norm", "constant_norm_rescale")
_BY_COLUMNS = (StandardSAE.encode, JumpReLUSAE.encode)
"""Encoders in which a latent depends on its own column of W_enc alone."""


@dataclass(frozen=True, eq=False)
class EncoderColumns:
    """What some latents of a standard or JumpReLU SAE are encoded with."""

    sae: SAE[Any]
    """An inference SAE."""
    weight: torch.Tensor
    """Columns of W_enc, [d_in, k]."""
    bias: torch.Tensor
    """[k]."""
    threshold: torch.Tensor | None
    """Of a JumpReLU SAE, [k]."""

    @classmethod
    def of(cls, sae: SAE[Any], indices: torch.Tensor) -> "EncoderColumns | None":
        """Take the columns of latents [k]; None if the SAE encodes in another way, so that all of it must be run."""
        if (
            type(sae).encode not in _BY_COLUMNS
            or type(sae).process_sae_in is not SAE.process_sae_in
            or type(sae.activation_fn) is not torch.nn.ReLU
            or sae.cfg.normalize_activations in _SCALED_BY_TOKEN
            or not {"encode", "process_sae_in"}.isdisjoint(vars(sae))
        ):
            return None
        whole: Any = sae
        threshold = whole.threshold.detach()[indices] if isinstance(sae, JumpReLUSAE) else None
        return cls(sae, whole.W_enc.detach()[:, indices], whole.b_enc.detach()[indices], threshold)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Encode activations [n, d_in], heads flattened, as `SAE.encode` does; gives [n, k]."""
        sae = self.sae
        x = sae.run_time_activation_norm_fn_in(x.to(sae.device, sae.dtype))
        x = x - sae.b_dec.detach() * sae.cfg.apply_b_dec_to_input
        before = x @ self.weight.to(x) + self.bias.to(x)
        acts = before.relu()
        return acts if self.threshold is None else acts * (before > self.threshold.to(x)).to(acts.dtype)


def full_encode(sae: SAE[Any], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encode activations [n, d_in], heads flattened, with the whole SAE.

    Returns:
        Activations [n, d_sae], and what the decoder's sum is multiplied by, [n, 1], or None.
    """
    with _disable_hooks(sae), _constant_parameters(sae):
        if sae.cfg.normalize_activations in _SCALED_BY_TOKEN:
            made = reconstruct(sae, x)
            return made.acts, made.token_scale
        with flat_heads(sae):
            acts = sae.encode(x.to(sae.device, sae.dtype))
        return (acts.to_dense() if acts.is_sparse else acts), None


@contextmanager
def _constant_parameters(sae: SAE[Any]) -> Generator[None, None, None]:
    """Keep gradients from the SAE's parameters while the block lasts."""
    trained = [parameter for parameter in sae.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)

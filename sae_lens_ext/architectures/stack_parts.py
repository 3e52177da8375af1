"""The parts of a ResidualStackSAE: which residual belongs on which base, and how their weights are joined."""

import logging
from typing import Any, cast

import torch
from sae_lens import SAE, JumpReLUSAE

from sae_lens_ext.architectures.base_sae import require_same_site
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.residual import BASE_METADATA_KEY, require_base_identity
from sae_lens_ext.architectures.sae_checks import require_sae

logger = logging.getLogger(__name__)


def residual_part(domain: str, sae: SAE[Any], base: SAE[Any], fingerprint: str) -> JumpReLUSAE:
    """Check that `sae` is a residual SAE of `base` and give it in inference form.

    Args:
        domain: Name of its domain, for messages.
        sae: The residual, as trained or as loaded.
        base: The base.
        fingerprint: `weights_fingerprint` of the base.

    Raises:
        ValueError: It is no residual SAE, reads another width or hook, or was trained on another base.
    """
    what = f"the residual SAE of {domain!r}"
    part = as_inference(require_sae("ResidualStackSAE.from_saes", what, sae))
    if not isinstance(part, JumpReLUSAE):
        raise ValueError(
            f"The residual SAE of {domain!r} has the architecture {part.cfg.architecture()!r}, but residual SAEs are saved as 'jumprelu'. "
            "Train it with ResidualTrainingSAE on this base."
        )
    require_same_site(base, part.cfg.d_in, part.cfg.metadata.hook_name, what)
    if part.cfg.metadata[BASE_METADATA_KEY] is None:
        logger.warning(
            f"The residual SAE of {domain!r} names no base in its metadata, so it cannot be told whether it was trained on this one. See that the base "
            "is the one it was trained on."
        )
    require_base_identity(part.cfg.metadata.to_dict(), fingerprint, repr(domain))
    if part.b_dec.abs().max() > 0 or part.cfg.normalize_activations != "none":
        raise ValueError(
            f"The residual SAE of {domain!r} has a decoder bias or a normalisation of its input, which a residual SAE has not: it must add "
            "nothing where none of its features fires. Train it with ResidualTrainingSAE on this base."
        )
    return part


def joined_weights(base: SAE[Any], parts: list[JumpReLUSAE]) -> dict[str, torch.Tensor]:
    """Concatenate the parts' tensors; all then share the base's input bias.

    Args:
        base: The base, in a form without gates.
        parts: The residuals, in the order of their latents.

    Returns:
        W_enc [d_in, d_sae], b_enc and threshold [d_sae], W_dec [d_sae, d_in] and b_dec [d_in], in the base's precision.
    """
    device, dtype = base.device, base.dtype
    b_dec = base.b_dec.detach()
    base_b_enc = cast("torch.Tensor", base.b_enc).detach()
    base_threshold = (
        base.threshold.detach() if isinstance(base, JumpReLUSAE) else torch.zeros_like(base_b_enc)
    )
    biases = [base_b_enc]
    for part in parts:
        bias = part.b_enc.detach().to(device, torch.float64)
        if base.cfg.apply_b_dec_to_input:
            # A residual reads x, the stack's encoder x − b_dec:  W x + b = W (x − b_dec) + (b + W b_dec).
            bias = bias + b_dec.double() @ part.W_enc.detach().to(device, torch.float64)
        biases.append(bias)

    def joined(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
        return torch.cat([tensor.detach().to(device, dtype) for tensor in tensors], dim=dim)

    return {
        "W_enc": joined([base.W_enc, *(part.W_enc for part in parts)], dim=1),
        "b_enc": joined(biases),
        "threshold": joined([base_threshold, *(part.threshold for part in parts)]),
        "W_dec": joined([base.W_dec, *(part.W_dec for part in parts)]),
        "b_dec": b_dec.clone(),
    }

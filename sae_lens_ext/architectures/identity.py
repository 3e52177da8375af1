"""Which SAE is this: a fingerprint of what it computes."""

import hashlib
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_ext.architectures.sae_checks import require_sae

_DECIDING_SETTINGS = ("apply_b_dec_to_input", "normalize_activations", "k", "rescale_acts_by_decoder_norm")


def weights_fingerprint(sae: SAE[Any]) -> str:
    """Hash an SAE's weights and the settings that decide what it makes of them, such as k.

    Every tensor is rounded to bfloat16 before hashing, so that one SAE loaded in float32, float64 and
    bfloat16 is one SAE. In float16 it is another, rounded otherwise; folding, fine-tuning or another k
    make another, too.

    Args:
        sae: Any SAE.

    Returns:
        SHA-256 over settings, names, shapes and rounded values, in hexadecimal.

    Raises:
        ValueError: It is no SAE, or one on the meta device.
    """
    require_sae("weights_fingerprint", "sae", sae)
    settings = {name: getattr(sae.cfg, name, None) for name in _DECIDING_SETTINGS}
    digest = hashlib.sha256(f"{sae.cfg.architecture()}{settings}".encode())
    for name, tensor in sorted(sae.state_dict().items()):
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{name}{tuple(rounded.shape)}".encode())
        digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()

"""Which SAE is this: a fingerprint of what it computes, and whether two hook names are one site."""

import hashlib
import re
from typing import Any

import torch
from sae_lens import SAE

_CANONICAL_SITES = {
    "hook_resid_pre": "hook_in",
    "hook_resid_post": "hook_out",
    "hook_attn_out": "attn.hook_out",
    "hook_mlp_out": "mlp.hook_out",
}
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
    """
    settings = {name: getattr(sae.cfg, name, None) for name in _DECIDING_SETTINGS}
    digest = hashlib.sha256(f"{sae.cfg.architecture()}{settings}".encode())
    for name, tensor in sorted(sae.state_dict().items()):
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{name}{tuple(rounded.shape)}".encode())
        digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def same_hook(first: str | None, second: str | None) -> bool:
    """Tell whether two hook names mean one site; an unknown name (None) contradicts nothing.

    HookedTransformer's names and TransformerBridge's canonical ones count as the same:
    `blocks.10.hook_resid_post` is `blocks.10.hook_out`.
    """
    return first is None or second is None or _canonical(first) == _canonical(second)


def _canonical(hook_name: str) -> str:
    site = re.fullmatch(r"(blocks\.\d+\.)(\w+)", hook_name)
    return site[1] + _CANONICAL_SITES.get(site[2], site[2]) if site else hook_name

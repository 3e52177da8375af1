"""Where a result comes from: what every analysis notes beside its numbers."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from sae_lens import SAE


def versions() -> dict[str, str]:
    """Give the versions that a number depends on."""
    return {
        f"{name.replace('-', '_')}_version": version(name)
        for name in ("torch", "sae-lens", "transformer-lens", "sae-lens-ext")
    }


def tokens_read(contexts: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name the tokens that each text was measured on: SHA-256 of their ids, in the order they were read.

    Args:
        contexts: Token ids [n, context_size] by text.
    """
    return {
        name: hashlib.sha256(tokens.long().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, tokens in contexts.items()
    }


def model_name(model: Any, sae: SAE[Any]) -> str | None:
    """Name the language model: by its own configuration, else by what the SAE's metadata say."""
    return getattr(getattr(model, "cfg", None), "model_name", None) or sae.cfg.metadata.model_name

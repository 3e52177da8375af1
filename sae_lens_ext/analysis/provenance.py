"""Where a result comes from: what every analysis notes beside its numbers."""

from importlib.metadata import version
from typing import Any

from sae_lens import SAE


def versions() -> dict[str, str]:
    """Give the versions that a number depends on."""
    return {
        f"{name.replace('-', '_')}_version": version(name)
        for name in ("torch", "sae-lens", "transformer-lens", "sae-lens-ext")
    }


def model_name(model: Any, sae: SAE[Any]) -> str | None:
    """Name the language model: by its own configuration, else by what the SAE's metadata say."""
    return getattr(getattr(model, "cfg", None), "model_name", None) or sae.cfg.metadata.model_name

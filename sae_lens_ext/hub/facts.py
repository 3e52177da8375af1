"""What a reader of a repository must know of each SAE in it."""

from dataclasses import dataclass
from typing import Any

from sae_lens import SAE

from sae_lens_ext.architectures.budgets import TRAINED_K_METADATA_KEY
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.residual import BASE_METADATA_KEY

_ON_AVERAGE = ("batchtopk", "residual")
"""Trained with a k that holds for the mean over a batch."""


@dataclass(frozen=True)
class Facts:
    """One SAE, as its configuration, metadata and weights describe it."""

    sae_id: str
    """Its name in the repository."""
    architecture: str
    """The name that SAELens loads it by."""
    trained_as: str | None
    """The name that it was trained by; None if its metadata do not say."""
    hook_name: str | None
    """The activations it reads."""
    model_name: str | None
    """The model whose activations these are."""
    d_in: int
    """Their width."""
    d_sae: int
    """The number of latents."""
    k: str
    """Latents per token, in words; empty where there is no such number."""
    budgets: tuple[int, ...]
    """The sparsity budgets it was trained for at once, increasing; empty for all but those."""
    parameters: int
    """The number of weights."""
    dtype: str
    """Their precision."""
    fingerprint: str
    """`weights_fingerprint`."""
    package: str | None
    """The package that must be imported before SAELens knows the architecture; None if SAELens alone does."""
    domains: tuple[str, ...]
    """The domains of a stack, in the order of their latents."""
    base: dict[str, Any] | None
    """Of a residual SAE, its base: architecture, d_sae, hook_name, weights_sha256, and release and sae_id where it has them."""


def facts_of(sae_id: str, sae: SAE[Any]) -> Facts:
    """Read an inference SAE.

    Args:
        sae_id: Its name in the repository.
        sae: The SAE, in inference form.
    """
    metadata = sae.cfg.metadata
    details = metadata.training_architecture_details
    details = details if isinstance(details, dict) else {}
    package = type(sae).__module__.partition(".")[0]
    return Facts(
        sae_id=sae_id,
        architecture=sae.cfg.architecture(),
        trained_as=_text(metadata.training_architecture),
        hook_name=_text(metadata.hook_name),
        model_name=_text(metadata.model_name),
        d_in=sae.cfg.d_in,
        d_sae=sae.cfg.d_sae,
        k=_k(sae, details),
        budgets=_budgets(sae, details),
        parameters=sum(parameter.numel() for parameter in sae.parameters()),
        dtype=sae.cfg.dtype,
        fingerprint=weights_fingerprint(sae),
        package=None if package == "sae_lens" else package,
        domains=tuple(map(str, getattr(sae.cfg, "domains", ()))),
        base=_base(metadata, details),
    )


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _k(sae: SAE[Any], details: dict[str, Any]) -> str:
    k = getattr(sae.cfg, "k", None)
    if k is not None:
        trained_k = sae.cfg.metadata[TRAINED_K_METADATA_KEY]
        return f"{k}" if trained_k in (None, k) else f"{k} (trained with {trained_k})"
    base_k = getattr(sae.cfg, "base_k", None)
    if base_k is not None:
        return f"{base_k} of the base"
    if sae.cfg.metadata.training_architecture in _ON_AVERAGE and "k" in details:
        return f"{details['k']} on average"
    return ""


def _budgets(sae: SAE[Any], details: dict[str, Any]) -> tuple[int, ...]:
    """Give the budgets of HierarchicalTopK or of a Kron SAE trained like it, up to the k that it has now."""
    budgets: Any = details.get("budgets")  # a list, once it has been on the disk
    k = getattr(sae.cfg, "k", None)
    if not isinstance(k, int) or not budgets:
        return ()
    if isinstance(budgets, str):
        return tuple(range(1, k + 1))
    return tuple(budget for budget in budgets if isinstance(budget, int) and budget <= k)


def _base(metadata: Any, details: dict[str, Any]) -> dict[str, Any] | None:
    base = metadata[BASE_METADATA_KEY]
    if not isinstance(base, dict):
        return None
    return {**base, "release": details.get("base_release"), "sae_id": details.get("base_sae_id")}

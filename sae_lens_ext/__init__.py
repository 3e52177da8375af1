"""New sparse-autoencoder architectures and analysis tools for SAELens and TransformerLens.

Importing this package registers its architectures, so that SAELens trains and loads them by name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sae_lens_ext.architectures import (
    BudgetCurve,
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronSAE,
    KronSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
    NonFiniteTrainingError,
    ResidualStackSAE,
    ResidualStackSAEConfig,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
    budget_curve,
    cite,
    describe,
    list_architectures,
    load_sae,
    register_architectures,
    weights_fingerprint,
    with_k,
)
from sae_lens_ext.language_model import mix_datasets

if TYPE_CHECKING:
    from sae_lens_ext.analysis.domains import DomainReport, evaluate_domains
    from sae_lens_ext.analysis.new_latents import NewLatents, compare_new_latents
    from sae_lens_ext.embedded import embedded_texts, list_embedded_texts, load_embedded_model

__version__ = "0.1.0"

register_architectures()

__all__ = [
    "BudgetCurve",
    "DomainReport",
    "HierarchicalTopKTrainingSAE",
    "HierarchicalTopKTrainingSAEConfig",
    "KronSAE",
    "KronSAEConfig",
    "KronTrainingSAE",
    "KronTrainingSAEConfig",
    "NewLatents",
    "NonFiniteTrainingError",
    "ResidualStackSAE",
    "ResidualStackSAEConfig",
    "ResidualTrainingSAE",
    "ResidualTrainingSAEConfig",
    "budget_curve",
    "cite",
    "compare_new_latents",
    "describe",
    "embedded_texts",
    "evaluate_domains",
    "list_architectures",
    "list_embedded_texts",
    "load_embedded_model",
    "load_sae",
    "mix_datasets",
    "weights_fingerprint",
    "with_k",
]

_LAZY = {
    "DomainReport": "sae_lens_ext.analysis.domains",
    "NewLatents": "sae_lens_ext.analysis.new_latents",
    "compare_new_latents": "sae_lens_ext.analysis.new_latents",
    "evaluate_domains": "sae_lens_ext.analysis.domains",
    "embedded_texts": "sae_lens_ext.embedded",
    "list_embedded_texts": "sae_lens_ext.embedded",
    "load_embedded_model": "sae_lens_ext.embedded",
}


def __getattr__(name: str) -> Any:
    """Import what is dear only when it is asked for."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

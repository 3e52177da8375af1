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
    from sae_lens_ext.analysis.seeds import train_seeds
    from sae_lens_ext.analysis.stability import (
        FiringRates,
        LowRankFeatureModel,
        MaskingCurve,
        StabilityProbe,
        StabilityReport,
        SubspaceReport,
        feature_stability,
        firing_rates_on,
        masking_curve,
        measure_firing_rates,
        pool_features,
        retrain_encoder,
        stability_probe,
        subspace_report,
    )
    from sae_lens_ext.embedded import embedded_texts, list_embedded_texts, load_embedded_model

__version__ = "0.1.0"

register_architectures()

__all__ = [
    "BudgetCurve",
    "DomainReport",
    "FiringRates",
    "HierarchicalTopKTrainingSAE",
    "HierarchicalTopKTrainingSAEConfig",
    "KronSAE",
    "KronSAEConfig",
    "KronTrainingSAE",
    "KronTrainingSAEConfig",
    "LowRankFeatureModel",
    "MaskingCurve",
    "NewLatents",
    "NonFiniteTrainingError",
    "ResidualStackSAE",
    "ResidualStackSAEConfig",
    "ResidualTrainingSAE",
    "ResidualTrainingSAEConfig",
    "StabilityProbe",
    "StabilityReport",
    "SubspaceReport",
    "budget_curve",
    "cite",
    "compare_new_latents",
    "describe",
    "embedded_texts",
    "evaluate_domains",
    "feature_stability",
    "firing_rates_on",
    "list_architectures",
    "list_embedded_texts",
    "load_embedded_model",
    "load_sae",
    "masking_curve",
    "measure_firing_rates",
    "mix_datasets",
    "pool_features",
    "retrain_encoder",
    "stability_probe",
    "subspace_report",
    "train_seeds",
    "weights_fingerprint",
    "with_k",
]

_LAZY = {
    "DomainReport": "sae_lens_ext.analysis.domains",
    "evaluate_domains": "sae_lens_ext.analysis.domains",
    "NewLatents": "sae_lens_ext.analysis.new_latents",
    "compare_new_latents": "sae_lens_ext.analysis.new_latents",
    "train_seeds": "sae_lens_ext.analysis.seeds",
    "FiringRates": "sae_lens_ext.analysis.stability",
    "LowRankFeatureModel": "sae_lens_ext.analysis.stability",
    "MaskingCurve": "sae_lens_ext.analysis.stability",
    "StabilityProbe": "sae_lens_ext.analysis.stability",
    "StabilityReport": "sae_lens_ext.analysis.stability",
    "SubspaceReport": "sae_lens_ext.analysis.stability",
    "feature_stability": "sae_lens_ext.analysis.stability",
    "firing_rates_on": "sae_lens_ext.analysis.stability",
    "masking_curve": "sae_lens_ext.analysis.stability",
    "measure_firing_rates": "sae_lens_ext.analysis.stability",
    "pool_features": "sae_lens_ext.analysis.stability",
    "retrain_encoder": "sae_lens_ext.analysis.stability",
    "stability_probe": "sae_lens_ext.analysis.stability",
    "subspace_report": "sae_lens_ext.analysis.stability",
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

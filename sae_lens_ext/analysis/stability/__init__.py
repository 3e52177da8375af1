"""Feature stability over seeds: which latents come back when an SAE is trained again (arXiv 2606.12138)."""

from sae_lens_ext.analysis.stability.firing import FiringRates, firing_rates_on, measure_firing_rates
from sae_lens_ext.analysis.stability.geometry import (
    StabilityProbe,
    SubspaceReport,
    stability_probe,
    subspace_report,
)
from sae_lens_ext.analysis.stability.masking import MaskingCurve, masking_curve
from sae_lens_ext.analysis.stability.measure import feature_stability
from sae_lens_ext.analysis.stability.pooling import pool_features, retrain_encoder
from sae_lens_ext.analysis.stability.report import PairMeasures, StabilityReport
from sae_lens_ext.analysis.stability.synthetic import FeatureRecovery, LowRankFeatureModel

__all__ = [
    "FeatureRecovery",
    "FiringRates",
    "LowRankFeatureModel",
    "MaskingCurve",
    "PairMeasures",
    "StabilityProbe",
    "StabilityReport",
    "SubspaceReport",
    "feature_stability",
    "firing_rates_on",
    "masking_curve",
    "measure_firing_rates",
    "pool_features",
    "retrain_encoder",
    "stability_probe",
    "subspace_report",
]

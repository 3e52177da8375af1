"""A ground truth of independent and of crowded features, and what SAEs recover of it."""

from sae_lens_ext.analysis.stability.synthetic.model import LowRankFeatureModel
from sae_lens_ext.analysis.stability.synthetic.recovery import FeatureRecovery

__all__ = ["FeatureRecovery", "LowRankFeatureModel"]

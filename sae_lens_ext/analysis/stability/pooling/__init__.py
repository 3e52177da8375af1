"""One SAE of the features of many."""

from sae_lens_ext.analysis.stability.pooling.pool import pool_features
from sae_lens_ext.analysis.stability.pooling.retraining import retrain_encoder

__all__ = ["pool_features", "retrain_encoder"]

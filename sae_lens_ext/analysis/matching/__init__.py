"""Comparing the features of two SAEs, as many as they have: largest cosines by chunks, one-to-one assignment."""

from sae_lens_ext.analysis.matching.assignment import one_to_one
from sae_lens_ext.analysis.matching.cosines import TopCosines, top_cosines

__all__ = ["TopCosines", "one_to_one", "top_cosines"]

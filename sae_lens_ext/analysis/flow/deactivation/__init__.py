"""Is a predecessor what makes a feature active? Take it away at a token, run on, and look (arXiv 2502.03032)."""

from sae_lens_ext.analysis.flow.deactivation.measure import deactivation_test
from sae_lens_ext.analysis.flow.deactivation.result import DeactivationResult, DeactivationRow, TestedSite
from sae_lens_ext.analysis.flow.deactivation.summary import PairedDifference

__all__ = [
    "DeactivationResult",
    "DeactivationRow",
    "PairedDifference",
    "TestedSite",
    "deactivation_test",
]

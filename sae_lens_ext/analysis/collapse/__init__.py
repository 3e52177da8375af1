"""Representation collapse: how many directions a layer's representations spread over, and what a linear probe still tells apart (arXiv 2502.09245)."""

from sae_lens_ext.analysis.collapse.entropy import matrix_entropy, sequence_entropies
from sae_lens_ext.analysis.collapse.figure import plot_collapse
from sae_lens_ext.analysis.collapse.measure import collapse_report
from sae_lens_ext.analysis.collapse.probe import separability
from sae_lens_ext.analysis.collapse.result import CollapseReport

__all__ = [
    "CollapseReport",
    "collapse_report",
    "matrix_entropy",
    "plot_collapse",
    "separability",
    "sequence_entropies",
]

"""How well SAEs do in each of several domains of text: reconstruction, what it costs the model, sparsity."""

from sae_lens_ext.analysis.domains.evaluation import evaluate_domains
from sae_lens_ext.analysis.domains.report import DomainMeasurement, DomainReport

__all__ = ["DomainMeasurement", "DomainReport", "evaluate_domains"]

"""What every feature of a model fires on, from one pass over texts."""

from sae_lens_ext.analysis.flow.top_activations.measure import top_activations
from sae_lens_ext.analysis.flow.top_activations.result import SiteTops, TopActivations
from sae_lens_ext.analysis.top_contexts import Context

__all__ = ["Context", "SiteTops", "TopActivations", "top_activations"]

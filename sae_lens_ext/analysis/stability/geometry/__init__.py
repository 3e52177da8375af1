"""Where the decoder rows of stable and unstable latents lie."""

from sae_lens_ext.analysis.stability.geometry.probe import stability_probe
from sae_lens_ext.analysis.stability.geometry.probe_result import StabilityProbe
from sae_lens_ext.analysis.stability.geometry.subspaces import subspace_report
from sae_lens_ext.analysis.stability.geometry.subspaces_result import SubspaceReport

__all__ = ["StabilityProbe", "SubspaceReport", "stability_probe", "subspace_report"]

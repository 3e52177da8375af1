"""What the latents that a domain adds to an SAE fire on, beside the base's most similar ones."""

from sae_lens_ext.analysis.new_latents.compare import compare_new_latents
from sae_lens_ext.analysis.new_latents.page import SECTION_CSS
from sae_lens_ext.analysis.new_latents.result import LatentPair, LatentUse, NewLatents
from sae_lens_ext.analysis.top_contexts import Context

__all__ = ["SECTION_CSS", "Context", "LatentPair", "LatentUse", "NewLatents", "compare_new_latents"]

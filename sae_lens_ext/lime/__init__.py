"""Layer-Integrated Memory: attention that reads the keys and values of all layers so far, on a hooked model (arXiv 2502.09245)."""

from sae_lens_ext.lime.attach import attach_lime
from sae_lens_ext.lime.routers import LimeRouters
from sae_lens_ext.lime.routing_hooks import RecordedMemory

__all__ = ["LimeRouters", "RecordedMemory", "attach_lime"]

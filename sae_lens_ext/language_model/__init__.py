"""What the analyses need of a language model of any kind: its hook points, and contexts of tokens for it."""

from sae_lens_ext.language_model.contexts import (
    contexts,
    mix_datasets,
    packed_contexts,
    require_context_fits,
)
from sae_lens_ext.language_model.hook_names import same_hook
from sae_lens_ext.language_model.hook_points import find_hook_point, hooked
from sae_lens_ext.language_model.reading import Site, read_activations

__all__ = [
    "Site",
    "contexts",
    "find_hook_point",
    "hooked",
    "mix_datasets",
    "packed_contexts",
    "read_activations",
    "require_context_fits",
    "same_hook",
]

"""What the analyses need of a language model of any kind: its hook points, and contexts of tokens for it."""

from sae_lens_ext.language_model.batches import by_length
from sae_lens_ext.language_model.contexts import (
    contexts,
    mix_datasets,
    packed_contexts,
    require_context_fits,
)
from sae_lens_ext.language_model.continuation import Continuation, read_texts
from sae_lens_ext.language_model.evaluating import evaluating
from sae_lens_ext.language_model.hook_names import same_hook
from sae_lens_ext.language_model.hook_points import find_hook_point, hooked
from sae_lens_ext.language_model.reading import Site, read_activations
from sae_lens_ext.language_model.stop_tokens import stop_tokens

__all__ = [
    "Continuation",
    "Site",
    "by_length",
    "contexts",
    "evaluating",
    "find_hook_point",
    "hooked",
    "mix_datasets",
    "packed_contexts",
    "read_activations",
    "read_texts",
    "require_context_fits",
    "same_hook",
    "stop_tokens",
]

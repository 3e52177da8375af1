"""Layer-Integrated Memory: attention that reads the keys and values of all layers so far, on a hooked model (arXiv 2502.09245)."""

from sae_lens_ext.lime.arithmetic import (
    ArithmeticAccuracy,
    ArithmeticExamples,
    ArithmeticVocabulary,
    arithmetic_accuracy,
    arithmetic_examples,
)
from sae_lens_ext.lime.attach import attach_lime
from sae_lens_ext.lime.reading import DepthwiseCircuits, RouterMap, depthwise_circuits, router_map
from sae_lens_ext.lime.routers import LimeRouters
from sae_lens_ext.lime.routing_hooks import RecordedMemory
from sae_lens_ext.lime.training import (
    LanguageModelLoss,
    LanguageModelTraining,
    language_model_loss,
    train_language_model,
)

__all__ = [
    "ArithmeticAccuracy",
    "ArithmeticExamples",
    "ArithmeticVocabulary",
    "DepthwiseCircuits",
    "LanguageModelLoss",
    "LanguageModelTraining",
    "LimeRouters",
    "RecordedMemory",
    "RouterMap",
    "arithmetic_accuracy",
    "arithmetic_examples",
    "attach_lime",
    "depthwise_circuits",
    "language_model_loss",
    "router_map",
    "train_language_model",
]

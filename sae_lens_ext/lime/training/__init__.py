"""Training a small language model, or the routers of one, and measuring its loss."""

from sae_lens_ext.lime.training.loss import language_model_loss
from sae_lens_ext.lime.training.loss_result import LanguageModelLoss
from sae_lens_ext.lime.training.result import LanguageModelTraining
from sae_lens_ext.lime.training.train import train_language_model

__all__ = ["LanguageModelLoss", "LanguageModelTraining", "language_model_loss", "train_language_model"]

"""Tensor parallel training: the latents of one TopK SAE divided over the ranks of a job."""

from sae_lens_ext.training.tensor_parallel.gradients import clip_divided_gradients_
from sae_lens_ext.training.tensor_parallel.runner import TensorParallelRunner
from sae_lens_ext.training.tensor_parallel.sae import DividedTopKTrainingSAE
from sae_lens_ext.training.tensor_parallel.trainer import TensorParallelTrainer

__all__ = [
    "DividedTopKTrainingSAE",
    "TensorParallelRunner",
    "TensorParallelTrainer",
    "clip_divided_gradients_",
]

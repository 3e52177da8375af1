"""One vector per layer that steers a model: `SteeringVectors`, and reading vectors out of whatever holds some."""

from sae_lens_ext.steering.vectors.named_vectors import named_vectors
from sae_lens_ext.steering.vectors.steering_vectors import SteeringVectors

__all__ = ["SteeringVectors", "named_vectors"]

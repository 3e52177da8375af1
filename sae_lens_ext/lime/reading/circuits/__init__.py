"""Depthwise circuits: which head's buffers each head reads, and at which tokens."""

from sae_lens_ext.lime.reading.circuits.circuit import Circuit, ServedToken
from sae_lens_ext.lime.reading.circuits.measure import depthwise_circuits
from sae_lens_ext.lime.reading.circuits.result import DepthwiseCircuits

__all__ = ["Circuit", "DepthwiseCircuits", "ServedToken", "depthwise_circuits"]

"""Reading routers of Layer-Integrated Memory: which layers they lean on, and which heads read which (arXiv 2502.09245)."""

from sae_lens_ext.lime.reading.circuits import Circuit, DepthwiseCircuits, ServedToken, depthwise_circuits
from sae_lens_ext.lime.reading.maps import RouterMap, router_map

__all__ = [
    "Circuit",
    "DepthwiseCircuits",
    "RouterMap",
    "ServedToken",
    "depthwise_circuits",
    "router_map",
]

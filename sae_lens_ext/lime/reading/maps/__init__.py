"""Router maps: how much of each layer's keys and values comes from which earlier layer."""

from sae_lens_ext.lime.reading.maps.measure import router_map
from sae_lens_ext.lime.reading.maps.result import RouterMap

__all__ = ["RouterMap", "router_map"]

"""From routers to their map."""

from typing import Any

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.lime.reading.checks import router_weights
from sae_lens_ext.lime.reading.maps.result import RouterMap
from sae_lens_ext.number_checks import require_bool


def router_map(routers: Any, *, off_diagonal: bool = False) -> RouterMap:
    """Read from routers' weights which earlier layers each layer leans on, as the paper's heat map does.

    For target layer ℓ and source layer ℓ′ it is the mean of |R| over target and source heads, divided by its sum over the source layers
    of ℓ. The weights are what was learnt; how large the keys and values are that they multiply, they do not say (`depthwise_circuits` does).

    Args:
        routers: LimeRouters, attached to a model or not.
        off_diagonal: Leave each layer's own heads out, so that the shares are of the weight on other layers. For routers that were trained from the
            identity on a pretrained model, where the layer's own weights are far larger than all others.

    Returns:
        The map; a copy, which does not change when the routers are trained on.

    Raises:
        ValueError: These are no routers, or their weights have NaN or infinity in them.

    Source: LIMe (arXiv 2502.09245), the analysis of learnt router weights. Mean and normalisation are as in its heat map; `off_diagonal` is ours.
    """
    require_bool("router_map", "off_diagonal", off_diagonal)
    weights = router_weights("router_map", routers)
    return RouterMap(
        by_head=weights,
        off_diagonal=off_diagonal,
        provenance={**versions(), "routers": dict(routers.provenance)},
    )

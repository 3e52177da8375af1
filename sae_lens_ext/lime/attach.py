"""Attaching LIMe's routers to a model, after finding out whether its hooks can carry them."""

from typing import Any

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.lime.initial_weights import Initial
from sae_lens_ext.lime.routers import LimeRouters
from sae_lens_ext.lime.routing_hooks import Attachment, routing_hook_of
from sae_lens_ext.lime.routing_sites import require_carries_routing, routing_points


def attach_lime(
    model: Any, routers: LimeRouters | None = None, *, initial: Initial = "identity", seed: int = 0
) -> LimeRouters:
    """Let attention of every layer read the keys and values of all layers so far, through routers that can be trained (arXiv 2502.09245).

    Each layer computes keys and values from its own input; at `attn.hook_k` and `attn.hook_v`, before rotary embedding and before the heads of
    grouped-query attention are repeated, the layer's router mixes them with those of all earlier layers. Queries are the layer's own. A token's keys and
    values are mixed with that same token's only, so that the causal mask and a cache of keys and values stay right: the cache holds routed ones.

    With routers that start at the identity the model's output is unchanged. Hooks that are added later, `run_with_cache` among them, see routed keys and
    values, and what they change there is read by their own layer's attention alone; `routers.recording()` has values before and after routing. The hooks stay when
    the model's hooks are reset, until `routers.detach()`.

        routers = attach_lime(model)
        routers.train_on(tokens)

    Args:
        model: A HookedTransformer or TransformerBridge in which every layer has attention with the same number of key-value heads. Its weights are not changed.
        routers: Some to attach, such as `LimeRouters.load(path)`; None for new ones. They go to the model's device.
        initial: What new ones start from, "identity", "random" or "average"; `LimeRouters` says what these are. With "random", as the paper starts a
            training from scratch, the output is another one at once.
        seed: Of "random".

    Returns:
        The routers, attached; an `nn.Module` whose parameters are not among the model's.

    Raises:
        ValueError: The model's hooks cannot carry routing: a layer has no attention or no such hooks, the heads differ between layers, keys come only after
            rotary embedding, what a hook returns is not what attention reads, the model is spread over devices. Or it has routers already, or the routers
            are of another size or attached elsewhere, or `initial` or `seed` were given beside routers. The model is as it was; hooks that were on it
            have seen a pass of four tokens.
    """
    if routers is not None and not isinstance(routers, LimeRouters):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"attach_lime was given {type(routers).__name__} as the routers. Give LimeRouters, such as LimeRouters.load(path), or None for new ones."
        )
    if routers is not None and (initial != "identity" or seed != 0):
        raise ValueError(
            f"attach_lime was given routers, and also initial = {initial!r} and seed = {seed!r}, which are for new ones. Leave these out, or the routers."
        )
    points = routing_points(model)
    attached = [routing_hook_of(point) for of_layer in points.values() for point in of_layer]
    if any(hook is not None for hook in attached):
        raise ValueError(
            f"This {type(model).__name__} has LIMe's routers attached already. Detach those first, by routers.detach(); if it is a deep copy of a model with "
            "routers, by detaching those of the original."
        )
    n_kv_heads = require_carries_routing(model, points)
    if routers is None:
        routers = LimeRouters(len(points), n_kv_heads, initial=initial, seed=seed)
    if routers.model is not None:
        raise ValueError(
            "These routers are attached to another model. Detach them there first, by routers.detach(), or attach a copy, copy.deepcopy(routers)."
        )
    if (routers.n_layers, routers.n_kv_heads) != (len(points), n_kv_heads):
        raise ValueError(
            f"These routers are for {routers.n_layers} layers of {routers.n_kv_heads} key-value heads, but this {type(model).__name__} has {len(points)} of "
            f"{n_kv_heads}. Give routers that were made for a model of this size."
        )
    # What loaded routers come from stays.
    routers.provenance = {
        "model_name": getattr(model.cfg, "model_name", None),
        **versions(),
        **routers.provenance,
    }
    routers.to(next(model.parameters()).device)
    bound = routers
    routers._attachment = Attachment(model, points, lambda: bound.weights, n_kv_heads)  # pyright: ignore[reportPrivateUsage]
    return routers

"""Routing in a model's own hooks: keys at `attn.hook_k`, values at `attn.hook_v`, before rotary embedding and before heads are repeated."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformer_lens.hook_points import HookPoint

from sae_lens_ext.ops.layer_routing import LayerMemory


@dataclass(eq=False)
class RecordedMemory:
    """Keys and values of the last forward pass, by layer, each [batch, pos, n_kv_heads, d_head], before rotary embedding; detached from the gradient."""

    keys: dict[int, torch.Tensor] = field(default_factory=dict[int, torch.Tensor])
    """Each layer's own, before routing."""
    values: dict[int, torch.Tensor] = field(default_factory=dict[int, torch.Tensor])
    """Each layer's own, before routing."""
    routed_keys: dict[int, torch.Tensor] = field(default_factory=dict[int, torch.Tensor])
    """What attention of the layer reads. Layer 0 reads its own."""
    routed_values: dict[int, torch.Tensor] = field(default_factory=dict[int, torch.Tensor])
    """What attention of the layer reads."""

    def take(self, layer: int, name: str, own: torch.Tensor, routed: torch.Tensor) -> None:
        """Keep copies of a layer's keys or values; those of layer 0 begin a pass, and what was there of the one before goes."""
        for of_layers, tensor in ((getattr(self, name), own), (getattr(self, f"routed_{name}"), routed)):
            if layer == 0:
                of_layers.clear()
            of_layers[layer] = tensor.detach().clone()


class _Memories(threading.local):
    """Of each thread its own, so that passes in several threads do not mix."""

    def __init__(self, n_layers: int) -> None:
        self.keys, self.values = LayerMemory(n_layers), LayerMemory(n_layers)


class Attachment:
    """The hooks of one model's routers, of which all of one pass share a memory of keys and one of values.

    A deep copy of the model has the same hooks, and shares their attachment.

    Args:
        model: The model.
        points: By layer, the hook points of keys and values.
        weights: Gives the routers' weights by layer.
        n_kv_heads: Heads that each layer must have.
    """

    def __init__(
        self,
        model: Any,
        points: Mapping[int, tuple[HookPoint, HookPoint]],
        weights: Callable[[], Mapping[int, torch.Tensor]],
        n_kv_heads: int,
    ) -> None:
        self.model, self.weights, self.n_kv_heads, self.n_layers = model, weights, n_kv_heads, len(points)
        self.paused = False
        self.recorded: RecordedMemory | None = None
        self.removed = False
        self._memories = _Memories(len(points))
        self._hooks = [
            (point, RoutingHook(self, layer, name))
            for layer, of_layer in points.items()
            for point, name in zip(of_layer, ("keys", "values"), strict=True)
        ]
        for point, hook in self._hooks:
            point.add_hook(hook, is_permanent=True)
        # A pass that stops early, or breaks off, leaves nothing to the next.
        self._ends = (
            model.register_forward_pre_hook(self._clear),
            model.register_forward_hook(self._clear, always_call=True),
        )

    @property
    def holds(self) -> bool:
        """Whether the hooks are still there: `reset_hooks(including_permanent=True)` takes them away."""
        return all(any(handle.user_hook is hook for handle in point.fwd_hooks) for point, hook in self._hooks)

    def memory(self, name: str) -> LayerMemory:
        """Give the memory of "keys" or "values" of this thread's pass."""
        return getattr(self._memories, name)

    def remove(self) -> None:
        """Take the hooks off, and forget what they hold of a pass; those of deep copies of the model do nothing from now on."""
        self.removed = True
        for point, hook in self._hooks:
            remove_hook(point, hook)
        for end in self._ends:
            end.remove()
        self._clear()

    def _clear(self, *_: object) -> None:
        for name in ("keys", "values"):
            self.memory(name).clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Attachment":
        return self


class RoutingHook:
    """Takes a layer's own keys (or values) and gives the routed ones.

    Args:
        attachment: Whose hook it is.
        layer: The layer.
        name: "keys" or "values".
    """

    routes_layers = True
    """By which others know that what a hook sees after this one is routed."""

    def __init__(self, attachment: Attachment, layer: int, name: str) -> None:
        self.attachment, self.layer, self.name = attachment, layer, name

    def __deepcopy__(self, memo: dict[int, Any]) -> "RoutingHook":
        return self

    def __repr__(self) -> str:
        return f"LIMe routing of layer {self.layer}'s {self.name}"

    def __call__(self, tensor: torch.Tensor, *, hook: Any = None) -> torch.Tensor | None:  # noqa: ARG002
        """Give the routed keys (or values), or None where they are the layer's own: at layer 0, and while paused.

        Raises:
            RuntimeError: The heads are not those the routers were made for, or the layers do not come in order.
        """
        own, attachment = tensor, self.attachment
        if attachment.paused or attachment.removed:
            return None
        memory = attachment.memory(self.name)
        self._require(own, memory)
        if self.layer == 0:
            memory.start(own)
            routed = None
        else:
            routed = memory.add(own, attachment.weights()[self.layer].to(own.device))
        if self.layer == attachment.n_layers - 1:
            memory.clear()
        if attachment.recorded is not None:
            attachment.recorded.take(self.layer, self.name, own, own if routed is None else routed)
        return routed

    def _require(self, own: torch.Tensor, memory: LayerMemory) -> None:
        if own.ndim != 4 or own.shape[2] != self.attachment.n_kv_heads:
            raise RuntimeError(
                f"LIMe's routers were attached to {self.attachment.n_kv_heads} key-value heads, but the {self.name} of layer {self.layer} have the shape "
                f"{tuple(own.shape)}. Leave use_split_qkv_input, use_attn_in and the like as they were when the routers were attached."
            )
        if self.layer == 0:
            return
        if memory.layers != self.layer:
            raise RuntimeError(
                f"The {self.name} of layer {self.layer} came when those of {memory.layers} layers were there, and LIMe's router reads all layers before it. "
                "Run the model from its first layer, each layer once (no start_at_layer, no gradient checkpointing), or use `with routers.paused():`."
            )
        if memory.of != (own.shape, own.dtype, own.device):
            raise RuntimeError(
                f"The {self.name} of layer {self.layer} have shape, precision and device {tuple(own.shape)}, {own.dtype}, {own.device}, but those of layer 0 had "
                f"{memory.of}, and LIMe's router mixes them. Keep all layers of one precision and on one device, or use `with routers.paused():`."
            )


def routing_hook_of(point: HookPoint) -> RoutingHook | None:
    """Give the routing hook of a hook point, or None. One that has been removed elsewhere, from what this is a deep copy of, is taken off."""
    for handle in list(point.fwd_hooks):
        if isinstance(handle.user_hook, RoutingHook):
            if not handle.user_hook.attachment.removed:
                return handle.user_hook
            remove_hook(point, handle.user_hook)
    return None


def remove_hook(point: HookPoint, hook: RoutingHook) -> None:
    """Take a hook off a hook point."""
    for handle in [handle for handle in point.fwd_hooks if handle.user_hook is hook]:
        handle.hook.remove()
        point.fwd_hooks.remove(handle)


def attached_weights(model: Any) -> list[torch.Tensor]:
    """Give the weights of the routers that are attached to a model, whoever holds them; none if there are none."""
    for point in getattr(model, "hook_dict", {}).values():
        hook = routing_hook_of(point)
        if hook is not None:
            return list(hook.attachment.weights().values())
    return []

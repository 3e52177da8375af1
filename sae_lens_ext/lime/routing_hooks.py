"""Routing in a model's own hooks: keys at `attn.hook_k`, values at `attn.hook_v`, before rotary embedding and before heads are repeated."""

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


class Attachment:
    """The hooks of one model's routers, of which all of one pass share a memory of keys and one of values.

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
        keys, values = LayerMemory(len(points)), LayerMemory(len(points))
        self._memories = (keys, values)
        self._hooks = [
            (point, RoutingHook(self, layer, memory, name))
            for layer, of_layer in points.items()
            for point, memory, name in zip(of_layer, self._memories, ("keys", "values"), strict=True)
        ]
        for point, hook in self._hooks:
            point.add_hook(hook, is_permanent=True)

    @property
    def holds(self) -> bool:
        """Whether the hooks are still there: `reset_hooks(including_permanent=True)` takes them away."""
        return all(any(handle.user_hook is hook for handle in point.fwd_hooks) for point, hook in self._hooks)

    def remove(self) -> None:
        """Take the hooks off, and forget what they hold of a pass."""
        for point, hook in self._hooks:
            for handle in [handle for handle in point.fwd_hooks if handle.user_hook is hook]:
                handle.hook.remove()
                point.fwd_hooks.remove(handle)
        for memory in self._memories:
            memory.clear()


class RoutingHook:
    """Takes a layer's own keys (or values) and gives the routed ones.

    Args:
        attachment: Whose hook it is.
        layer: The layer.
        memory: What the layers so far have left.
        name: "keys" or "values".
    """

    def __init__(self, attachment: Attachment, layer: int, memory: LayerMemory, name: str) -> None:
        self.attachment, self.layer, self.memory, self.name = attachment, layer, memory, name

    def __repr__(self) -> str:
        return f"LIMe routing of layer {self.layer}'s {self.name}"

    def __call__(self, tensor: torch.Tensor, *, hook: Any = None) -> torch.Tensor | None:  # noqa: ARG002
        """Give the routed keys (or values), or None where they are the layer's own: at layer 0, and while paused.

        Raises:
            RuntimeError: The heads are not those the routers were made for, or the layers do not come in order.
        """
        own, attachment = tensor, self.attachment
        if attachment.paused:
            return None
        self._require(own)
        if self.layer == 0:
            self.memory.start(own)
            routed = None
        else:
            routed = self.memory.add(own, attachment.weights()[self.layer])
        if self.layer == attachment.n_layers - 1:
            self.memory.clear()
        if attachment.recorded is not None:
            getattr(attachment.recorded, self.name)[self.layer] = own.detach()
            getattr(attachment.recorded, f"routed_{self.name}")[self.layer] = (
                own if routed is None else routed
            ).detach()
        return routed

    def _require(self, own: torch.Tensor) -> None:
        if own.ndim != 4 or own.shape[2] != self.attachment.n_kv_heads:
            raise RuntimeError(
                f"LIMe's routers were attached to {self.attachment.n_kv_heads} key-value heads, but the {self.name} of layer {self.layer} have the shape "
                f"{tuple(own.shape)}. Leave use_split_qkv_input, use_attn_in and the like as they were when the routers were attached."
            )
        if self.layer > 0 and self.memory.layers != self.layer:
            raise RuntimeError(
                f"The {self.name} of layer {self.layer} came when those of {self.memory.layers} layers were there, and LIMe's router reads all layers before it. "
                "Run the model from its first layer, each layer once (no start_at_layer, no gradient checkpointing), or use `with routers.paused():`."
            )

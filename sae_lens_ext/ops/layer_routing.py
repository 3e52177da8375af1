"""Mixing what all layers so far have buffered, head by head, with the buffers of a pass in one block of memory (LIMe, arXiv 2502.09245)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def route_naive(buffers: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Route as the formula has it: K̃_h = Σ_ℓ' Σ_h' R[h, ℓ', h'] · K_ℓ',h'.

    Args:
        buffers: Keys (or values) of layers 0 to ℓ, un-routed, before rotary embedding, each [batch, pos, n_kv_heads, d_head].
        weights: R of layer ℓ, [n_kv_heads (target), ℓ + 1 (source layer), n_kv_heads (source head)].

    Returns:
        What attention of layer ℓ reads, [batch, pos, n_kv_heads, d_head].
    """
    heads: list[torch.Tensor] = []
    for target in range(weights.shape[0]):
        mixed = torch.zeros_like(buffers[0][:, :, 0])
        for layer, buffer in enumerate(buffers):
            for source in range(buffer.shape[2]):
                mixed = mixed + weights[target, layer, source].to(buffer.dtype) * buffer[:, :, source]
        heads.append(mixed)
    return torch.stack(heads, dim=2)


class LayerMemory:
    """Keys (or values) of the layers of one pass, which each next layer adds to and reads at once.

    All layers' rows lie in one block, a row for each layer and head; nothing is joined or copied again for the next layer, and autograd keeps the block
    once, not once a layer. Gradients flow back through one block of the same size.

    Args:
        n_layers: Layers of the model, for which there must be room.
    """

    def __init__(self, n_layers: int) -> None:
        self._n_layers = n_layers
        self._rows: torch.Tensor | None = None  # [layers so far × head, batch × pos × d_head]
        self._block: torch.Tensor | None = None
        self.layers = 0

    def start(self, own: torch.Tensor) -> None:
        """Begin a pass.

        Args:
            own: Keys of layer 0, [batch, pos, n_kv_heads, d_head]. Nothing is routed there.
        """
        self._rows, self._block, self.layers = own.permute(2, 0, 1, 3).reshape(own.shape[2], -1), None, 1

    def add(self, own: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Add the next layer's keys and route.

        Args:
            own: [batch, pos, n_kv_heads, d_head], of the shape and precision of layer 0's.
            weights: R of this layer, [n_kv_heads, layers with this one, n_kv_heads], taken in the precision of `own`.

        Returns:
            As `route_naive`; differentiable once, in the keys of every layer and in the weights.
        """
        if self._block is None:
            self._block = own.new_empty(self._n_layers * own.shape[2], own.numel() // own.shape[2])
        with torch.autocast(own.device.type, enabled=False):
            self._rows, routed = _AddAndRoute.apply(self._rows, own, weights, self._block)  # pyright: ignore[reportGeneralTypeIssues]
        self.layers += 1
        return routed

    def clear(self) -> None:
        """Forget the pass, so that it takes no memory."""
        self._rows, self._block, self.layers = None, None, 0


class _AddAndRoute(torch.autograd.Function):
    """rows, own, R → (rows with own below them, R @ those), as if joined anew; rows already lie in the block, where own is written beside them."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, own: torch.Tensor, weights: torch.Tensor, block: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, pos, n_heads, d_head = own.shape
        before, after = len(rows), len(rows) + n_heads
        if rows.data_ptr() != block.data_ptr():  # those of layer 0
            block[:before].copy_(rows)
        block[before:after].view(n_heads, batch, pos, d_head).copy_(own.permute(2, 0, 1, 3))
        flat = weights.detach().reshape(n_heads, after).to(own.dtype)
        ctx.set_materialize_grads(False)
        # Not saved by autograd, which would count every later layer's writing below these rows as a change of them.
        ctx.block, ctx.flat, ctx.own_shape, ctx.weights = (
            block,
            flat,
            own.shape,
            (weights.shape, weights.dtype),
        )
        routed = flat @ block[:after]
        return block[:after], routed.view(n_heads, batch, pos, d_head).permute(1, 2, 0, 3)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_rows: torch.Tensor | None, grad_routed: torch.Tensor | None
    ) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        batch, pos, n_heads, d_head = ctx.own_shape
        shape, dtype = ctx.weights
        after = ctx.flat.shape[1]
        if grad_routed is None:  # nobody has read what was routed here
            grad, grad_weights = grad_rows, None
        else:
            grad_routed = grad_routed.permute(2, 0, 1, 3).reshape(n_heads, -1)
            grad_weights = (
                (grad_routed @ ctx.block[:after].T).reshape(shape).to(dtype)
                if ctx.needs_input_grad[2]
                else None
            )
            # Later layers have all added theirs by now, and nobody else holds the block of gradients.
            grad = (
                ctx.flat.T @ grad_routed if grad_rows is None else grad_rows.addmm_(ctx.flat.T, grad_routed)
            )
        if grad is None:
            return None, None, grad_weights, None
        own = grad[after - n_heads :].view(n_heads, batch, pos, d_head).permute(1, 2, 0, 3)
        return grad[: after - n_heads], own, grad_weights, None

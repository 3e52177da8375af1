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
        """Layers so far."""
        self.of: tuple[torch.Size, torch.dtype, torch.device] | None = None
        """Shape, precision and device of the keys of layer 0, which those of the others must have, too."""

    def start(self, own: torch.Tensor) -> None:
        """Begin a pass.

        Args:
            own: Keys of layer 0, [batch, pos, n_kv_heads, d_head]; they are copied. Nothing is routed there.
        """
        rows = own.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)
        self._rows, self._block, self.layers = rows.view(own.shape[2], -1), None, 1
        self.of = own.shape, own.dtype, own.device

    def add(self, own: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Add the next layer's keys and route.

        Args:
            own: [batch, pos, n_kv_heads, d_head], of the shape, precision and device of layer 0's; they are copied.
            weights: R of this layer, [n_kv_heads, layers with this one, n_kv_heads], taken in the precision of `own`.

        Returns:
            As `route_naive`; differentiable once, in the keys of every layer and in the weights.
        """
        batch, pos, n_heads, d_head = own.shape
        if self._block is None:
            self._block = own.new_empty(self._n_layers * n_heads, own.numel() // n_heads)
        with torch.autocast(own.device.type, enabled=False):
            self._rows, routed = _AddAndRoute.apply(self._rows, own, weights, self._block)  # pyright: ignore[reportGeneralTypeIssues]
        self.layers += 1
        return routed.view(n_heads, batch, pos, d_head).permute(1, 2, 0, 3)

    def clear(self) -> None:
        """Forget the pass, so that it takes no memory."""
        self._rows, self._block, self.layers, self.of = None, None, 0, None


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
        ctx.set_materialize_grads(False)
        # .data counts its changes apart: every later layer writes below these rows, which stay as they are.
        ctx.save_for_backward(block.data, weights)
        ctx.own_shape = own.shape
        return block[:after], _flat(weights, own.dtype) @ block[:after]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_rows: torch.Tensor | None, grad_routed: torch.Tensor | None
    ) -> tuple[Any, ...]:
        block, weights = ctx.saved_tensors
        batch, pos, n_heads, d_head = ctx.own_shape
        after = weights.shape[1] * n_heads
        grad, grad_weights = grad_rows, None
        if grad_routed is not None:  # somebody has read what was routed here
            with torch.autocast(block.device.type, enabled=False):
                if ctx.needs_input_grad[2]:
                    grad_weights = (grad_routed @ block[:after].T).reshape(weights.shape).to(weights.dtype)
                back = _flat(weights, block.dtype).T
                # Later layers have all added theirs by now, and nobody else holds the block of gradients.
                grad = back @ grad_routed if grad_rows is None else grad_rows.addmm_(back, grad_routed)
        if grad is None:
            return None, None, grad_weights, None
        own = grad[after - n_heads :].view(n_heads, batch, pos, d_head).permute(1, 2, 0, 3)
        return grad[: after - n_heads], own, grad_weights, None


def _flat(weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give R as a matrix, [target head, source layer × source head]."""
    return weights.detach().flatten(start_dim=1).to(dtype)

"""A loss that is a sum over chunks of tokens, with one chunk in memory at a time."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def sum_of_chunks(
    loss_of: Callable[..., torch.Tensor], chunks: Iterable[slice], *inputs: torch.Tensor
) -> torch.Tensor:
    """Add up a loss over chunks; its gradients are found together with it.

    Args:
        loss_of: Gives the scalar loss of a chunk from the chunk and the inputs.
        chunks: The chunks.
        inputs: What the loss may be differentiated in; one at least.

    Returns:
        The sum, a scalar in float32 or better; differentiable once, in those of the inputs that require it.
    """
    loss: torch.Tensor = _untraced(torch.is_grad_enabled(), loss_of, chunks, *inputs)
    return loss


class _SumOfChunks(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        differentiable: bool,
        loss_of: Callable[..., torch.Tensor],
        chunks: Iterable[slice],
        *inputs: torch.Tensor,
    ) -> torch.Tensor:
        wanted = [differentiable and needed for needed in ctx.needs_input_grad[3:]]
        leaves = [x.detach().requires_grad_(want) for x, want in zip(inputs, wanted, strict=True)]
        sums = [
            torch.zeros_like(x, dtype=_wide(x)) if want else None
            for x, want in zip(inputs, wanted, strict=True)
        ]
        loss = inputs[0].new_zeros((), dtype=_wide(inputs[0]))
        for chunk in chunks:
            with torch.set_grad_enabled(any(wanted)):
                of_chunk = loss_of(chunk, *leaves)
            loss += of_chunk.detach()
            if of_chunk.requires_grad:
                needed = [leaf for leaf in leaves if leaf.requires_grad]
                found = torch.autograd.grad(of_chunk, needed, allow_unused=True, materialize_grads=True)
                for total, more in zip((s for s in sums if s is not None), found, strict=True):
                    total += more
        ctx.save_for_backward(
            *(None if s is None else s.to(x.dtype) for s, x in zip(sums, inputs, strict=True))
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        scaled = (None if g is None else g * d_loss.to(g.dtype) for g in ctx.saved_tensors)
        return None, None, None, *scaled


# The tracer of torch 2.6 breaks off within an autograd function that differentiates.
_untraced: Any = torch.compiler.disable(_SumOfChunks.apply)


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)

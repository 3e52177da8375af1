"""The sparse decoder, out_b = Σ_r z_br e_i(b,r), and its gradients as Triton kernels.

`sae_lens_ext.ops.sparse_decoder` is the specification. Indices are trusted to be within the dictionary.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from sae_lens_ext.ops.triton_kernels.launch import blocks, launch


@triton.jit
def _decode_kernel(
    values: tl.tensor,
    indices: tl.tensor,
    decoder: tl.tensor,
    out: tl.tensor,
    n_ranks: int,
    d: int,
    WIDTH: tl.constexpr,
) -> None:
    """Decode one block of columns of one token."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < d
    total = tl.zeros([WIDTH], dtype=tl.float32)
    for rank in range(n_ranks):
        z = tl.load(values + token * n_ranks + rank).to(tl.float32)
        row = tl.load(indices + token * n_ranks + rank).to(tl.int64)  # F·d may exceed 2³¹
        e = tl.load(decoder + row * d + columns, mask=inside, other=0.0)
        total += z * e.to(tl.float32)
    tl.store(out + token * d + columns, total, mask=inside)


@triton.jit
def _gradients_kernel(
    grad_out: tl.tensor,
    values: tl.tensor,
    indices: tl.tensor,
    decoder: tl.tensor,
    d_values: tl.tensor,
    d_decoder: tl.tensor,
    n_tokens: int,
    n_ranks: int,
    d: int,
    WIDTH: tl.constexpr,
) -> None:
    """Add one block of columns of one token to the gradients; `d_values` is [blocks, B, k]."""
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * WIDTH + tl.arange(0, WIDTH)
    inside = columns < d
    g = tl.load(grad_out + token * d + columns, mask=inside, other=0.0).to(tl.float32)
    partial = d_values + (block * n_tokens + token) * n_ranks
    for rank in range(n_ranks):
        z = tl.load(values + token * n_ranks + rank).to(tl.float32)
        row = tl.load(indices + token * n_ranks + rank).to(tl.int64) * d
        e = tl.load(decoder + row + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(partial + rank, tl.sum(e * g, axis=0))
        if z != 0:  # tokens with fewer latents may all fill up with the same ones, and would queue for them
            tl.atomic_add(d_decoder + row + columns, z * g, mask=inside, sem="relaxed")


def decode(values: torch.Tensor, indices: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
    """Decode without gradients.

    Args:
        values: z, shape [B, k].
        indices: Shape [B, k].
        decoder: e, shape [F, d].

    Returns:
        Σ_r values[b, r] · decoder[indices[b, r]] in the decoder's precision, shape [B, d].
    """
    n_tokens, n_ranks = values.shape
    out = decoder.new_empty(n_tokens, decoder.shape[1])
    launch(_decode_kernel, n_tokens, decoder.shape[1], values, indices, decoder, out, n_ranks)
    return out


def decode_gradients(
    grad_out: torch.Tensor, values: torch.Tensor, indices: torch.Tensor, decoder: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the gradients of `decode`.

    Args:
        grad_out: ∂L/∂out, shape [B, d].
        values: z, shape [B, k].
        indices: Shape [B, k].
        decoder: e, shape [F, d].

    Returns:
        ∂L/∂z, shape [B, k], and ∂L/∂e, shape [F, d], both in float32.
    """
    (n_tokens, n_ranks), d = values.shape, decoder.shape[1]
    d_values = decoder.new_empty(blocks(d)[0], n_tokens, n_ranks, dtype=torch.float32)
    d_decoder = decoder.new_zeros(decoder.shape, dtype=torch.float32)
    tensors = (grad_out, values, indices, decoder, d_values, d_decoder)
    launch(_gradients_kernel, n_tokens, d, *tensors, n_tokens, n_ranks)
    return d_values.sum(dim=0), d_decoder


class SparseDecode(torch.autograd.Function):
    """`decode`, differentiable once in values and decoder."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, indices: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
        """Decode, and keep the inputs."""
        ctx.save_for_backward(values, indices, decoder)
        return decode(values, indices, decoder)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Give the gradients in the inputs' precision."""
        values, indices, decoder = ctx.saved_tensors
        d_values, d_decoder = decode_gradients(grad_out, values, indices, decoder)
        return d_values.to(values.dtype), None, d_decoder.to(decoder.dtype)

"""Decoding from the k latents of a token instead of a vector of F that is almost all zeros."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from sae_lens_ext.ops.by_latent import latent_sums
from sae_lens_ext.ops.checks import require_indices, require_tensors
from sae_lens_ext.ops.triton_kernels.availability import use_triton


def sparse_decode_naive(values: torch.Tensor, indices: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
    """Decode as the SAE's formula has it, with a dense vector of latents.

    Args:
        values: Latent values, shape [B, k].
        indices: Their positions in the dictionary, distinct within a token, shape [B, k].
        decoder: Decoder rows, shape [F, d].

    Returns:
        Σ_r values[b, r] · decoder[indices[b, r]], without bias, shape [B, d].

    Raises:
        ValueError: A tensor has another shape or type, or an index is out of range.
    """
    _require("sparse_decode_naive", values, indices, decoder)
    values = values.to(decoder.dtype)
    latents = values.new_zeros(len(values), len(decoder)).scatter(1, indices.long(), values)
    return latents @ decoder


def sparse_decode(values: torch.Tensor, indices: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
    """Do as `sparse_decode_naive` by reading only the k rows of each token, forward and backward.

    Args:
        values: Latent values, shape [B, k]; taken in the decoder's precision.
        indices: Their positions in the dictionary, shape [B, k]; a latent named twice counts twice.
        decoder: Decoder rows, shape [F, d].

    Returns:
        Reconstructions without bias, shape [B, d]; differentiable once, in `values` and `decoder`.

    Raises:
        ValueError: As the naive form.
    """
    _require("sparse_decode", values, indices, decoder)
    values = values.to(decoder.dtype)
    if use_triton(decoder):
        from sae_lens_ext.ops.triton_kernels.sparse_decode import SparseDecode  # imports triton

        decoded: torch.Tensor = SparseDecode.apply(values, indices, decoder)
        return decoded
    # The bag differentiates the values well; of the table it would make a slow gradient, so ours is grafted on.
    out = embedding_bag(indices, decoder.detach(), per_sample_weights=values, mode="sum")
    grafted: torch.Tensor = _DecoderGradient.apply(out, values.detach(), indices, decoder)
    return grafted


def _require(caller: str, values: torch.Tensor, indices: torch.Tensor, decoder: torch.Tensor) -> None:
    """Raise ValueError unless the arguments fit each other."""
    sizes = require_tensors(caller, decoder=(decoder, "F d"), values=(values, "B k"))
    require_indices(caller, "indices", indices, "B k", sizes, sizes["F"], "rows of decoder")


class _DecoderGradient(torch.autograd.Function):
    """The identity on `out`, with the gradient that a decoder behind it would get."""

    @staticmethod
    def forward(
        ctx: Any, out: torch.Tensor, values: torch.Tensor, indices: torch.Tensor, decoder: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(values, indices)
        ctx.decoder_shape, ctx.decoder_dtype = decoder.shape, decoder.dtype
        return out.view_as(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        values, indices = ctx.saved_tensors
        d_decoder = None
        if ctx.needs_input_grad[3]:
            d_decoder = latent_sums(values, indices, grad_out, ctx.decoder_shape[0]).to(ctx.decoder_dtype)
        return grad_out, None, None, d_decoder

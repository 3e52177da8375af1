"""The linear map below both encoders: forward for a chunk of tokens, backward from few pre-activations."""

import torch
from torch.nn.functional import embedding_bag

from sae_lens_ext.ops.by_latent import latent_sums


class Encoder:
    """x ↦ W_encᵀ(x − b_in) + b_enc for chunk after chunk, in autocast's precision where that is on."""

    def __init__(self, W_enc: torch.Tensor, b_enc: torch.Tensor, b_in: torch.Tensor | None = None) -> None:
        self.b_enc, self.b_in = b_enc, b_in
        device_type = W_enc.device.type
        if torch.is_autocast_enabled(device_type):  # once, not once a chunk
            W_enc = W_enc.to(torch.get_autocast_dtype(device_type))
        self.W_enc = W_enc
        self.dtype = torch.promote_types(W_enc.dtype, b_enc.dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Encode activations [t, d] to pre-activations [t, F]."""
        if self.b_in is not None:
            x = x - self.b_in
        pre = x @ self.W_enc
        return pre.add_(self.b_enc) if pre.dtype == self.dtype else pre + self.b_enc


def outside_inference_mode(x: torch.Tensor) -> torch.Tensor:
    """Give a tensor that autograd may keep: a copy of one that was made in inference mode, and any other as it is."""
    return x.clone() if x.is_inference() and torch.is_grad_enabled() else x


def encoder_gradients(
    needed: tuple[bool, ...],
    d_pre: torch.Tensor,
    columns: torch.Tensor,
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_in: torch.Tensor | None,
) -> tuple[torch.Tensor | None, ...]:
    """Give the gradients of a linear encoder from those of the few pre-activations that matter.

    Args:
        needed: Whether x, W_enc, b_enc and b_in need a gradient.
        d_pre: Gradients of pre-activations, shape [B, k].
        columns: Which columns of W_enc they belong to, shape [B, k].
        x: Activations, shape [B, d].
        W_enc: Encoder, shape [d, F].
        b_in: Bias subtracted from x, shape [d], or None.

    Returns:
        The gradients of x, W_enc, b_enc and b_in; None where not needed.
    """
    needs_x, needs_W, needs_b, needs_b_in = needed
    d_x = d_W = d_b_in = None
    dtype = torch.promote_types(d_pre.dtype, torch.float32)  # half precision would stop growing
    d_b = torch.zeros(W_enc.shape[1], dtype=dtype, device=d_pre.device)
    d_b.index_add_(0, columns.flatten(), d_pre.flatten().to(dtype))
    if needs_x:
        d_x = embedding_bag(columns, W_enc.T, per_sample_weights=d_pre.to(W_enc.dtype), mode="sum").to(
            x.dtype
        )
    if needs_W:
        rows = x if b_in is None else x - b_in
        d_W = latent_sums(d_pre, columns, rows, W_enc.shape[1]).T.to(W_enc.dtype)
    if needs_b_in:
        assert b_in is not None
        d_b_in = -(W_enc.to(d_b.dtype) @ d_b).to(b_in.dtype)  # the tokens share b_in, so their sum is enough
    return d_x, d_W, d_b.to(W_enc.dtype) if needs_b else None, d_b_in

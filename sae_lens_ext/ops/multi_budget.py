"""HierarchicalTopK's loss: one reconstruction per sparsity budget (arXiv 2505.24473).

With the latents of a token ranked by value, z_1 ≥ z_2 ≥ …, and e_r the decoder row of the r-th,

    x̂_j = b + Σ_{r ≤ j} z_r e_r          L = (1/|J|) Σ_{j in J} ‖x − x̂_j‖²

`multi_budget_loss_naive` is that formula and the specification; `multi_budget_loss` is the same
number with the same gradients in memory that does not grow with the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

TOKENS_PER_CHUNK = 64  # on a CPU: a chunk's [tokens, K, d] block then stays near the caches
FLOATS_PER_CHUNK = 2**27  # elsewhere: few, large steps, half a gigabyte in float32


def prefix_reconstructions(
    values: torch.Tensor, indices: torch.Tensor, decoder: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Reconstruct each token from its 1, 2, …, K largest latents.

    Args:
        values: Latent values, sorted descending, shape [B, K].
        indices: Their positions in the dictionary, shape [B, K].
        decoder: Decoder rows, shape [F, d].
        bias: Decoder bias, shape [d]; counted once in every reconstruction.

    Returns:
        Reconstructions, shape [B, K, d]; entry j−1 along K uses the j largest latents.
    """
    return bias + (values.unsqueeze(-1) * decoder[indices]).cumsum(dim=1)


def multi_budget_loss_naive(
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    budgets: Sequence[int],
) -> torch.Tensor:
    """Mean over the budgets of the squared error, summed over d and averaged over tokens.

    Holds [B, K, d] floats several times over; see `multi_budget_loss`.

    Args:
        values: Latent values, sorted descending, shape [B, K].
        indices: Their positions in the dictionary, shape [B, K].
        decoder: Decoder rows, shape [F, d].
        bias: Decoder bias, shape [d].
        target: Activations x to reconstruct, shape [B, d].
        budgets: The levels J, each in 1..K.

    Returns:
        The loss, a scalar.
    """
    levels = prefix_reconstructions(values, indices, decoder, bias)[:, [j - 1 for j in budgets]]
    return (levels - target.unsqueeze(1)).pow(2).sum(dim=-1).mean()


def multi_budget_loss(
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    budgets: Sequence[int],
) -> torch.Tensor:
    """Compute `multi_budget_loss_naive` in chunks of tokens, with its gradients in closed form.

    With g_j = 2 (x̂_j − x) / (|J| B) for j in J and S_r = Σ_{j ≥ r} g_j,

        ∂L/∂z_r = e_r · S_r      ∂L/∂e_r += z_r S_r      ∂L/∂b = Σ_tokens S_1      ∂L/∂x = −S_1

    so one cumulative sum up the ranks and one down give everything; memory beyond the gradients is a
    few chunks of [tokens, K, d], whatever the batch. Sums run in float32 or better.

    Args:
        values: Latent values, sorted descending, shape [B, K].
        indices: Their positions in the dictionary, shape [B, K].
        decoder: Decoder rows, shape [F, d].
        bias: Decoder bias, shape [d].
        target: Activations x to reconstruct, shape [B, d].
        budgets: The levels J, each in 1..K.

    Returns:
        The loss, a scalar; differentiable once with respect to values, decoder, bias and target.
    """
    loss: torch.Tensor = _MultiBudgetLoss.apply(values, indices, decoder, bias, target, tuple(budgets))
    return loss


class _MultiBudgetLoss(torch.autograd.Function):
    """The gradients are found together with the loss, while the residuals are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        indices: torch.Tensor,
        decoder: torch.Tensor,
        bias: torch.Tensor,
        target: torch.Tensor,
        budgets: tuple[int, ...],
    ) -> torch.Tensor:
        inputs = (values, decoder, bias, target)
        dtype = torch.promote_types(torch.float32, torch.promote_types(decoder.dtype, target.dtype))
        level_weight = values.new_zeros(values.shape[1], 1, dtype=dtype)
        level_weight[[j - 1 for j in budgets]] = 1 / (len(budgets) * max(values.shape[0], 1))

        loss = target.new_zeros((), dtype=dtype)
        d_values, d_decoder, d_bias, d_target = (torch.zeros_like(t, dtype=dtype) for t in inputs)
        chunk = _tokens_per_chunk(values, target)
        for start in range(0, values.shape[0], chunk):
            tokens = slice(start, start + chunk)
            z = values[tokens].to(dtype).unsqueeze(-1)  # [t, K, 1]
            rows = decoder[indices[tokens]].to(dtype)  # [t, K, d]
            residual = (z * rows).cumsum(dim=1).add_((bias - target[tokens]).to(dtype).unsqueeze(1))
            weighted = residual * level_weight
            loss += (residual * weighted).sum()
            S = (2 * weighted).flip(1).cumsum(dim=1).flip(1)  # Σ over the levels from r up
            d_values[tokens] = (rows * S).sum(dim=-1)
            d_decoder.index_add_(0, indices[tokens].flatten(), (z * S).flatten(0, 1))
            d_bias += S[:, 0].sum(dim=0)
            d_target[tokens] = -S[:, 0]
        gradients = (d_values, d_decoder, d_bias, d_target)
        ctx.save_for_backward(*(g.to(t.dtype) for g, t in zip(gradients, inputs, strict=True)))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        d_values, d_decoder, d_bias, d_target = (g * grad_output.to(g.dtype) for g in ctx.saved_tensors)
        return d_values, None, d_decoder, d_bias, d_target, None


def _tokens_per_chunk(values: torch.Tensor, target: torch.Tensor) -> int:
    if values.device.type == "cpu":
        return TOKENS_PER_CHUNK
    return max(1, FLOATS_PER_CHUNK // max(1, values.shape[1] * target.shape[1]))

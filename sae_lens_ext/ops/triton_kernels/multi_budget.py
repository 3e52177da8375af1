"""The loss over budgets and its gradients as one Triton kernel; see `sae_lens_ext.ops.multi_budget`.

A program has one token and one block of columns, and all its state is two vectors. With R_a = x̂_a − x, first
ranks ascending,

    R_a = R_{a−1} + z_a e_a,  R_0 = b − x          loss += ‖R_a‖² at every level a

and then descending, with D_a the sum of the errors R_j of the levels j ≥ a (up to the loss's factor 2 / (|J| B)),

    D_a = D_{a+1} + [a is a level] R_a        ∂L/∂z_a = e_a · D_a        ∂L/∂e_a += z_a D_a

undoing R_{a−1} = R_a − z_a e_a on the way; at the end ∂L/∂x = −D_1. So every row is read twice and nothing of
size [B, K, d] is written.
"""

import torch
import triton
import triton.language as tl
from torch.nn.functional import pad

from sae_lens_ext.ops.budget_gradients import BudgetGradients
from sae_lens_ext.ops.triton_kernels.launch import blocks, launch


@triton.jit
def _multi_budget_kernel(
    values: tl.tensor,
    indices: tl.tensor,
    decoder: tl.tensor,
    bias: tl.tensor,
    target: tl.tensor,
    is_level: tl.tensor,
    loss: tl.tensor,
    d_values: tl.tensor,
    d_decoder: tl.tensor,
    d_target: tl.tensor,
    reconstruction: tl.tensor,
    weight: float,
    n_tokens: int,
    n_values: int,
    n_ranks: int,
    d: int,
    WIDTH: tl.constexpr,
) -> None:
    """Pass through the ranks of one token twice; `loss` is [blocks, B] and `d_values` [blocks, B, n_ranks]."""
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * WIDTH + tl.arange(0, WIDTH)
    inside = columns < d
    z_of_token, index_of_token = values + token * n_values, indices + token * n_values

    x = tl.load(target + token * d + columns, mask=inside, other=0.0).to(tl.float32)
    R = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32) - x
    squares = tl.zeros([WIDTH], dtype=tl.float32)
    for rank in range(n_ranks):
        z = tl.load(z_of_token + rank).to(tl.float32)
        row = tl.load(index_of_token + rank).to(tl.int64)  # F·d may exceed 2³¹
        R += z * tl.load(decoder + row * d + columns, mask=inside, other=0.0).to(tl.float32)
        squares += tl.where(tl.load(is_level + rank) != 0, R * R, 0.0)
    tl.store(loss + block * n_tokens + token, weight * tl.sum(squares, axis=0))
    tl.store(reconstruction + token * d + columns, x + R, mask=inside)

    D = tl.zeros([WIDTH], dtype=tl.float32)
    partial = d_values + (block * n_tokens + token) * n_ranks
    for step in range(n_ranks):
        rank = n_ranks - 1 - step
        z = tl.load(z_of_token + rank).to(tl.float32)
        row = tl.load(index_of_token + rank).to(tl.int64) * d
        e = tl.load(decoder + row + columns, mask=inside, other=0.0).to(tl.float32)
        D += tl.where(tl.load(is_level + rank) != 0, 2 * weight * R, 0.0)
        tl.store(partial + rank, tl.sum(e * D, axis=0))
        if z != 0:  # tokens with fewer latents may all fill up with the same ones, and would queue for them
            tl.atomic_add(d_decoder + row + columns, z * D, mask=inside, sem="relaxed")
        R -= z * e
    tl.store(d_target + token * d + columns, -D, mask=inside)


def by_triton(
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    budgets: tuple[int, ...],
) -> BudgetGradients:
    """Do as `by_rank` and `by_segment`, from inputs of any floating types, each its own.

    Args:
        values: z, shape [B, K].
        indices: Shape [B, K], trusted to be within the dictionary.
        decoder: e, shape [F, d]; read as it is, without a copy in the precision of the sums.
        bias: b, shape [d].
        target: x, shape [B, d].
        budgets: J, increasing.

    Returns:
        The loss and its gradients, the dense one of the decoder included, in float32 (of float64 as well).
    """
    (n_tokens, n_values), n_ranks, d = values.shape, budgets[-1], target.shape[1]
    loss = target.new_empty(blocks(d)[0], n_tokens, dtype=torch.float32)
    d_values = target.new_empty(*loss.shape, n_ranks, dtype=torch.float32)
    d_decoder = decoder.new_zeros(decoder.shape, dtype=torch.float32)
    d_target = target.new_empty(target.shape, dtype=torch.float32)
    reconstruction = torch.empty_like(d_target)
    levels = set(budgets)
    is_level = torch.tensor([j in levels for j in range(1, n_ranks + 1)], dtype=torch.int8)
    inputs = (values, indices, decoder, bias, target, is_level.to(target.device, non_blocking=True))
    outputs = (loss, d_values, d_decoder, d_target, reconstruction)
    weight = 1 / (len(budgets) * max(n_tokens, 1))
    launch(_multi_budget_kernel, n_tokens, d, *inputs, *outputs, weight, n_tokens, n_values, n_ranks)
    return BudgetGradients(
        loss=loss.sum(),
        values=pad(d_values.sum(dim=0), (0, n_values - n_ranks)),
        target=d_target,
        reconstruction=reconstruction,
        decoder=d_decoder,
    )

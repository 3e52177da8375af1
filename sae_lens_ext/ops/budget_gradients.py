"""The two ways to the loss over budgets and its gradients; see `multi_budget_loss`.

Let r = x − b, T_a the number of levels ≥ a, and D_a = Σ_{j in J, j ≥ a} (x̂_j − x) the sum of the errors
that rank a has a part in. Then, but for the factor 2 / (|J| B),

    ∂L/∂z_a = e_a · D_a      ∂L/∂e_a += z_a D_a      ∂L/∂x = −D_1      ∂L/∂b = Σ_tokens D_1

and, because the loss is quadratic in (z, r),  |J| L_token = Σ_a z_a e_a · D_a − r · D_1.

By rank, for many levels:  D_a = Σ_b T_max(a,b) z_b e_b − T_a r, a small matrix product per token.
By segment, for few: between two levels all ranks share D, so a segment is one sparse decode, and the
errors are a cumulative sum over as many segments as there are levels.
"""

import itertools
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding_bag

from sae_lens_ext.ops.chunks import chunks

RANKS_PER_BLOCK = 64  # blocks make the products by rank linear in K
ROOM = 2  # by rank, [t, K, d] is passed over several times and should stay in the caches


@dataclass(frozen=True)
class BudgetGradients:
    """The loss over budgets with its gradients, in the precision of the sums."""

    loss: torch.Tensor
    """Scalar."""
    values: torch.Tensor
    """∂L/∂z, shape [B, K]."""
    target: torch.Tensor
    """∂L/∂x, shape [B, d]; ∂L/∂b is minus its sum over tokens."""
    reconstruction: torch.Tensor
    """x̂ with the largest budget, shape [B, d]."""
    decoder: torch.Tensor | None = None
    """∂L/∂e, shape [F, d]; or None, and then it is Σ z errors over the uses of each latent."""
    errors: torch.Tensor | None = None
    """∂L/∂(z e) for each segment of ranks, the same for all ranks of it, shape [B, |J|, d]."""


def segment_of_rank(budgets: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Tell which segment between levels each of the ranks 1..max(J) is in, shape [max(J)]."""
    lengths = [high - low for low, high in itertools.pairwise((0, *budgets))]
    return torch.arange(len(budgets), device=device).repeat_interleave(torch.tensor(lengths, device=device))


def by_segment(
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    budgets: tuple[int, ...],
) -> BudgetGradients:
    """Find the gradients from one sparse decode per segment between levels.

    Args:
        values: z, shape [B, K], of one floating type with all that follows.
        indices: Shape [B, K].
        decoder: e, shape [F, d].
        bias: b, shape [d].
        target: x, shape [B, d].
        budgets: J, increasing.

    Returns:
        The loss and its gradients.
    """
    n_levels, n_ranks, d = len(budgets), budgets[-1], target.shape[1]
    weight = 1 / (n_levels * max(len(target), 1))
    starts = torch.tensor((0, *budgets[:-1]), device=target.device)
    loss, errors = target.new_zeros(()), target.new_empty(len(target), n_levels, d)
    d_values, reconstruction = torch.zeros_like(values), torch.empty_like(target)
    for tokens in chunks(len(target), n_levels * d, target.device):
        z, latents = values[tokens, :n_ranks].detach().clone(), indices[tokens, :n_ranks]
        first = n_ranks * torch.arange(len(z), device=z.device).unsqueeze(1)
        differentiable = not torch.is_inference_mode_enabled()
        with torch.set_grad_enabled(differentiable):  # the bag's own gradient in its weights is ∂/∂z
            z.requires_grad_(differentiable)
            segments = embedding_bag(
                latents.flatten(),
                decoder,
                (first + starts).flatten(),
                per_sample_weights=z.flatten(),
                mode="sum",
            )
        summed = errors[tokens]  # in place from here on, for few passes over memory
        summed.copy_(segments.detach().view(-1, n_levels, d))
        summed[:, 0] += bias - target[tokens]
        for level in range(1, n_levels):
            summed[:, level] += summed[:, level - 1]
        reconstruction[tokens] = summed[:, -1] + target[tokens]
        loss += torch.linalg.vector_norm(summed, dim=-1).pow(2).sum()
        for level in reversed(range(n_levels - 1)):
            summed[:, level] += summed[:, level + 1]
        summed *= 2 * weight
        if differentiable:
            (d_values[tokens, :n_ranks],) = torch.autograd.grad(segments, z, summed.flatten(0, 1))
    return BudgetGradients(weight * loss, d_values, -errors[:, 0], reconstruction, errors=errors)


def by_rank(
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    budgets: tuple[int, ...],
) -> BudgetGradients:
    """Find the gradients from a matrix product over the ranks of each token.

    Args and Returns: as `by_segment`.
    """
    n_ranks, d = values.shape[1], target.shape[1]
    weight = 1 / (len(budgets) * max(len(target), 1))
    levels = torch.zeros(n_ranks, dtype=target.dtype, device=target.device)
    levels[[j - 1 for j in budgets]] = 1
    T = levels.flip(0).cumsum(0).flip(0)  # number of levels ≥ a

    loss = target.new_zeros(())
    d_values, d_decoder = torch.zeros_like(values), torch.zeros_like(decoder)
    d_target, reconstruction = torch.zeros_like(target), torch.empty_like(target)
    blocks = [slice(low, min(low + RANKS_PER_BLOCK, n_ranks)) for low in range(0, n_ranks, RANKS_PER_BLOCK)]
    pieces = list(chunks(len(target), ROOM * n_ranks * d, target.device))
    rows = [target.new_empty(pieces[0].stop if pieces else 0, b.stop - b.start, d) for b in blocks]
    for tokens in pieces:
        z, x, latents = values[tokens], target[tokens], indices[tokens]
        e = [buffer[: len(x)] for buffer in rows]
        below = [bias - x]  # for each block, the error that the ranks below it leave
        for block, e_block in zip(blocks, e, strict=True):
            torch.index_select(decoder, 0, latents[:, block].flatten(), out=e_block.flatten(0, 1))
            if block is not blocks[-1]:
                below.append(below[-1] + _weighted_sum(z[:, block], e_block))
        above = torch.zeros_like(x)  # Σ T_b z_b e_b over the ranks above the block
        for block, e_block, error in zip(reversed(blocks), reversed(e), reversed(below), strict=True):
            T_block, z_block = T[block], z[:, block]
            summed = torch.addcmul(above.unsqueeze(1), T_block.unsqueeze(-1), error.unsqueeze(1))
            summed.baddbmm_(T_block[_maxima(len(T_block), T.device)] * z_block.unsqueeze(1), e_block)
            if block is not blocks[0]:
                above = above + _weighted_sum(T_block * z_block, e_block)
            if block.start < budgets[-1] <= block.stop:
                highest = budgets[-1] - 1 - block.start  # only the last level is summed here
                reconstruction[tokens] = x + summed[:, highest]
            dots = torch.mul(e_block, summed, out=e_block).sum(dim=-1)
            d_values[tokens, block] = 2 * weight * dots
            loss += (z_block * dots).sum()
            if block is blocks[0]:
                d_target[tokens] = -2 * weight * summed[:, 0]
                loss += ((bias - x) * summed[:, 0]).sum()
            summed *= 2 * weight * z_block.unsqueeze(-1)
            d_decoder.index_add_(0, latents[:, block].flatten(), summed.flatten(0, 1))
    loss = (weight * loss).clamp(min=0)
    return BudgetGradients(loss, d_values, d_target, reconstruction, decoder=d_decoder)


def _maxima(n: int, device: torch.device) -> torch.Tensor:
    """max(a, b) for a, b in 0..n−1."""
    ranks = torch.arange(n, device=device)
    return torch.maximum(ranks.unsqueeze(1), ranks)


def _weighted_sum(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.bmm(weights.unsqueeze(1), rows).squeeze(1)

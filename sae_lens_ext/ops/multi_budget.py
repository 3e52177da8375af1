"""HierarchicalTopK's loss: one reconstruction per sparsity budget (arXiv 2505.24473).

With the latents of a token ranked by value, z_1 ≥ z_2 ≥ …, and e_r the decoder row of the r-th,

    x̂_j = b + Σ_{r ≤ j} z_r e_r          L = (1/|J|) Σ_{j in J} ‖x − x̂_j‖²

`multi_budget_loss_naive` is that formula and the specification; `multi_budget_loss` is the same
number with the same gradients, which it finds together with the loss, a few tokens at a time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sae_lens_ext.ops.budget_gradients import by_rank, by_segment, segment_of_rank
from sae_lens_ext.ops.by_latent import latent_sums
from sae_lens_ext.ops.checks import require_budgets, require_indices, require_tensors
from sae_lens_ext.ops.chunks import has_bags
from sae_lens_ext.ops.triton_kernels.availability import use_triton

# Up to this share of the ranks, levels are faster by segment; up to this number they keep [B, |J|, d] small.
FEW, FEW_AT_MOST = 1 / 3, 32


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

    Raises:
        ValueError: A tensor has another shape or type, or an index is out of range.
    """
    _require("prefix_reconstructions", values, indices, decoder, bias)
    return bias + (values.unsqueeze(-1) * decoder[indices]).cumsum(dim=1)


def multi_budget_loss_naive(
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    budgets: Sequence[int],
    *,
    unit_rows: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average over the budgets the squared error, summed over d and averaged over tokens.

    Holds [B, K, d] floats several times over; see `multi_budget_loss`.

    Args:
        values: Latent values, sorted descending, shape [B, K].
        indices: Their positions in the dictionary, shape [B, K].
        decoder: Decoder rows, shape [F, d].
        bias: Decoder bias, shape [d].
        target: Activations x to reconstruct, shape [B, d].
        budgets: The levels J, increasing, each in 1..K.
        unit_rows: Whether the decoder rows count as normalised, whatever their length (e_r / ‖e_r‖).

    Returns:
        The loss, a scalar, and the reconstruction with the largest budget, detached, shape [B, d].

    Raises:
        ValueError: A tensor has another shape or type, an index is out of range, or a budget is.
    """
    _require("multi_budget_loss_naive", values, indices, decoder, bias, target=(target, "B d"))
    budgets = require_budgets("multi_budget_loss_naive", budgets, values.shape[1])
    if unit_rows:
        decoder = decoder / decoder.norm(dim=-1, keepdim=True)
    levels = prefix_reconstructions(values, indices, decoder, bias)[:, [j - 1 for j in budgets]]
    loss = (levels - target.unsqueeze(1)).pow(2).sum(dim=-1).mean()
    return loss, levels[:, -1].detach()


def multi_budget_loss(
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    budgets: Sequence[int],
    *,
    unit_rows: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `multi_budget_loss_naive` in chunks of tokens, with its gradients in closed form.

    Memory beyond the gradients is a chunk or two, whatever the batch. Sums run in float32 or better, also
    under autocast. On a CPU the result is deterministic; on a GPU it is so under
    `torch.use_deterministic_algorithms`.

    Args:
        values: Latent values, sorted descending, shape [B, K].
        indices: Their positions in the dictionary, shape [B, K].
        decoder: Decoder rows, shape [F, d].
        bias: Decoder bias, shape [d].
        target: Activations x to reconstruct, shape [B, d].
        budgets: The levels J, increasing, each in 1..K. Few levels cost less than all.
        unit_rows: Whether the decoder rows count as normalised, whatever their length (e_r / ‖e_r‖).

    Returns:
        The loss, a scalar, differentiable once with respect to values, decoder, bias and target; and the
        reconstruction with the largest budget, not differentiable, shape [B, d].

    Raises:
        ValueError: As the naive form.
    """
    _require("multi_budget_loss", values, indices, decoder, bias, target=(target, "B d"))
    budgets = require_budgets("multi_budget_loss", budgets, values.shape[1])
    loss, reconstruction = _MultiBudgetLoss.apply(values, indices, decoder, bias, target, budgets, unit_rows)
    return loss, reconstruction


def _require(
    caller: str,
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    **target: tuple[torch.Tensor, str],
) -> None:
    """Raise ValueError unless the arguments fit each other."""
    sizes = require_tensors(
        caller, decoder=(decoder, "F d"), values=(values, "B K"), bias=(bias, "d"), **target
    )
    require_indices(caller, "indices", indices, "B K", sizes, sizes["F"], "rows of decoder")


class _MultiBudgetLoss(torch.autograd.Function):
    """The gradients are found together with the loss, while the errors are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        indices: torch.Tensor,
        decoder: torch.Tensor,
        bias: torch.Tensor,
        target: torch.Tensor,
        budgets: tuple[int, ...],
        unit_rows: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = torch.promote_types(torch.float32, torch.promote_types(decoder.dtype, target.dtype))
        if use_triton(decoder, target):
            from sae_lens_ext.ops.triton_kernels.multi_budget import by_triton  # imports triton

            find, e = by_triton, decoder
        else:
            few = len(budgets) <= max(1, min(FEW * budgets[-1], FEW_AT_MOST)) and has_bags(target.device)
            find = by_segment if few else by_rank
            e = decoder.to(dtype)
        z, b, x = (t.to(dtype) for t in (values, bias, target))
        norms = e.norm(dim=-1, dtype=dtype) if unit_rows else None
        z = z if norms is None else z / norms[indices]
        with torch.autocast(target.device.type, enabled=False):
            found = find(z, indices, e, b, x, budgets)
        ctx.budgets, ctx.dtypes = budgets, [t.dtype for t in (values, decoder, bias, target)]
        ctx.save_for_backward(
            z, indices, decoder, norms, found.values, found.target, found.decoder, found.errors
        )
        reconstruction = found.reconstruction.to(target.dtype)
        ctx.mark_non_differentiable(reconstruction)
        return found.loss, reconstruction

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, d_loss: torch.Tensor, _: Any
    ) -> tuple[torch.Tensor | None, ...]:
        z, indices, decoder, norms, d_z, d_target, d_decoder, errors = ctx.saved_tensors
        d_z, d_target = d_z * d_loss, d_target * d_loss
        if d_decoder is not None:
            d_decoder = d_decoder * d_loss
        else:
            n_levels, n_ranks = len(ctx.budgets), ctx.budgets[-1]
            row = n_levels * torch.arange(len(z), device=z.device).unsqueeze(1)
            d_decoder = latent_sums(
                z[:, :n_ranks] * d_loss,
                indices[:, :n_ranks],
                errors.flatten(0, 1),
                len(decoder),
                row + segment_of_rank(ctx.budgets, z.device),
            )
        if norms is not None:  # a row's length is no part of the function: no gradient along the row
            along = torch.zeros_like(norms).index_add_(0, indices.flatten(), (z * d_z).flatten())
            d_decoder.addcmul_(decoder, (along / norms.square()).unsqueeze(-1), value=-1)
            d_z = d_z / norms[indices]
        gradients = (d_z, d_decoder, -d_target.sum(dim=0), d_target)
        d_values, d_decoder, d_bias, d_target = (
            g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return d_values, None, d_decoder, d_bias, d_target, None, None

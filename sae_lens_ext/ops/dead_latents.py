"""The dead-latent loss (Gao et al., arXiv 2406.04093, A.2) from the dead latents alone.

    L = ‖error − Σ_{f among the k best dead latents} a_f e_f‖²     summed over d, averaged over tokens

Everything here has as many columns as there are dead latents, and as many rows as a chunk has tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sae_lens_ext.ops.chunks import chunks


def dead_latent_loss_naive(
    activations: Callable[..., torch.Tensor],
    x: torch.Tensor,
    error: torch.Tensor,
    parameters: tuple[torch.Tensor, ...],
    rows: torch.Tensor,
    k: int,
    rank_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Let the k best dead latents of each token rebuild the error that the living ones leave.

    Args:
        activations: Gives the activations of the N dead latents, shape [B, N], from x and the parameters.
        x: Activations that the encoder reads, shape [B, d].
        error: x − x̂, shape [B, d]; no gradient goes through it.
        parameters: What `activations` needs beside x.
        rows: Decoder rows of the dead latents, shape [N, d].
        k: Dead latents used per token, at most N.
        rank_scale: They are ranked by activation times this, shape [N]; None for 1.

    Returns:
        The loss, a scalar.
    """
    acts = activations(x, *parameters)
    if k < acts.shape[1]:
        ranked = acts.detach() if rank_scale is None else acts.detach() * rank_scale
        kept = ranked.topk(k, dim=-1, sorted=False).indices
        acts = torch.zeros_like(acts).scatter(1, kept, acts.gather(1, kept))
    return (acts @ rows - error.detach()).pow(2).sum(dim=-1).mean()


def dead_latent_loss(
    activations: Callable[..., torch.Tensor],
    x: torch.Tensor,
    error: torch.Tensor,
    parameters: tuple[torch.Tensor, ...],
    rows: torch.Tensor,
    k: int,
    rank_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Do as `dead_latent_loss_naive` in chunks of tokens; the gradients are found together with the loss.

    Args and Returns: as the naive form's; differentiable once, in x, the parameters and the rows.
    """
    differentiable = torch.is_grad_enabled()
    loss: torch.Tensor = _DeadLatentLoss.apply(
        differentiable, activations, error, k, rank_scale, x, rows, *parameters
    )
    return loss


class _DeadLatentLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        differentiable: bool,
        activations: Callable[..., torch.Tensor],
        error: torch.Tensor,
        k: int,
        rank_scale: torch.Tensor | None,
        x: torch.Tensor,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        of_x = differentiable and ctx.needs_input_grad[5]
        of_weights = differentiable and any(ctx.needs_input_grad[6:])
        dtype = torch.promote_types(x.dtype, torch.float32)
        loss = torch.zeros((), dtype=dtype, device=x.device)
        rows, *parameters = leaves = [w.detach().requires_grad_() if of_weights else w for w in weights]
        gradients = [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in weights]
        d_x = torch.zeros_like(x) if of_x else None
        # About four matrices as wide as the dead latents are many live at a time.
        for tokens in chunks(len(x), 4 * len(rows), x.device):
            x_chunk = x[tokens].detach().requires_grad_() if of_x else x[tokens]
            share = len(x_chunk) / len(x)
            with torch.set_grad_enabled(of_x or of_weights):
                of_chunk = share * dead_latent_loss_naive(
                    activations, x_chunk, error[tokens], tuple(parameters), rows, k, rank_scale
                )
            loss += of_chunk.detach()
            wanted = [*([x_chunk] if of_x else []), *(leaves if of_weights else [])]
            if not wanted:
                continue
            found = list(torch.autograd.grad(of_chunk, wanted, allow_unused=True, materialize_grads=True))
            if d_x is not None:
                d_x[tokens] = found.pop(0)
            for gradient, more in zip(gradients, found, strict=False):
                gradient += more
        ctx.save_for_backward(d_x, *(g.to(w.dtype) for g, w in zip(gradients, weights, strict=True)))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        scaled = (None if g is None else g * d_loss.to(g.dtype) for g in ctx.saved_tensors)
        return *[None] * 5, *scaled

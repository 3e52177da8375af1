"""Clipping by the norm of the whole SAE's gradient, of which each rank holds its share."""

from collections.abc import Iterable

import torch

from sae_lens_ext.ranks import Ranks
from sae_lens_ext.training.tensor_parallel.shares import DIVIDED_AXIS


@torch.no_grad()
def clip_divided_gradients_(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]], max_norm: float, ranks: Ranks
) -> torch.Tensor:
    """Do as `torch.nn.utils.clip_grad_norm_` does on the undivided SAE.

    Args:
        named_parameters: This rank's share, by the names of the SAE's parameters. What is not divided must have
            the same gradient on every rank, and counts once.
        max_norm: Gradients are scaled down where their norm is larger.
        ranks: Who holds the others.

    Returns:
        The norm before clipping, a scalar, the same on every rank.

    Raises:
        RankError: A rank does not answer.
    """
    gradients = {name: p.grad for name, p in named_parameters if p.grad is not None}
    if not gradients:
        return torch.zeros(())
    squares = {
        name: torch.linalg.vector_norm(grad, dtype=_wide(grad)).square() for name, grad in gradients.items()
    }
    own = torch.stack([square for name, square in squares.items() if name in DIVIDED_AXIS]).sum()
    common = [square for name, square in squares.items() if name not in DIVIDED_AXIS]
    norm = (ranks.tell.reduce_(own, "sum", "measuring the gradient's norm") + sum(common)).sqrt()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients.values():
        gradient.mul_(scale.to(gradient.dtype))
    return norm


def _wide(gradient: torch.Tensor) -> torch.dtype:
    return torch.promote_types(gradient.dtype, torch.float32)

"""KronSAE's latent scores: mAND over the Kronecker grid of each head (arXiv 2505.22255, Eq. 3)."""

import torch


def mand(base: torch.Tensor, extension: torch.Tensor) -> torch.Tensor:
    """Score every (base, extension) pair of every head with mAND.

        mAND(u, v) = sqrt(u v)  if u > 0 and v > 0,  else 0

    The score is exactly 0 where a parent is off, and so is the gradient: no epsilon stands under the
    root, which would give latents that are off a small score and let them be selected. The root of a
    product is taken as the product of the roots, so that neither underflows in half precision and a
    head needs m + n roots instead of m·n.

    Args:
        base: u, shape [..., h, m]; any sign, on where positive.
        extension: v, shape [..., h, n]; likewise.

    Returns:
        Scores z ≥ 0, shape [..., h·m·n], row-major: latent ((head·m) + i)·n + j pairs base element i
        with extension element j.
    """
    scores = _sqrt_where_on(base).unsqueeze(-1) * _sqrt_where_on(extension).unsqueeze(-2)
    return scores.flatten(-3)


def split_pre_latents(
    pre_latents: torch.Tensor, base_dim: int, extension_dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the fused encoder output into base and extension elements.

    Args:
        pre_latents: W_enc x + b_enc, shape [..., h·(m+n)]: head-major, and in each head first the m
            base elements, then the n extension elements.
        base_dim: m.
        extension_dim: n.

    Returns:
        Base [..., h, m] and extension [..., h, n], both views of the input.
    """
    per_head = pre_latents.unflatten(-1, (-1, base_dim + extension_dim))
    return per_head[..., :base_dim], per_head[..., base_dim:]


def _sqrt_where_on(x: torch.Tensor) -> torch.Tensor:
    """Return sqrt(x) where x > 0 and 0 elsewhere, with gradient 0 (never NaN) where x ≤ 0."""
    on = x > 0
    return torch.where(on, torch.where(on, x, 1.0).sqrt(), 0.0)

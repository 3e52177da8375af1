"""KronSAE's latent scores: mAND over the Kronecker grid of each head (arXiv 2505.22255, Eq. 3)."""

import torch

from sae_lens_ext.ops.checks import require_count, require_tensors


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

    Raises:
        ValueError: A tensor is no floating-point one, or the two differ in what comes before m and n.
    """
    require_tensors("mand", base=(base, "... h m"), extension=(extension, "... h n"))
    if base.shape[:-1] != extension.shape[:-1]:
        raise ValueError(
            f"mand was given base of the shape {tuple(base.shape)} and extension of the shape {tuple(extension.shape)}. Give tensors that "
            "differ in the last dimension alone."
        )
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

    Raises:
        ValueError: The pre-latents are no tensor, or do not divide into heads of m + n.
    """
    if not isinstance(pre_latents, torch.Tensor) or pre_latents.ndim == 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"split_pre_latents was given pre_latents = {pre_latents!r:.60}. Give a tensor [..., h(m+n)]."
        )
    base_dim, extension_dim, _ = require_heads(
        "split_pre_latents", "pre_latents", pre_latents.shape[-1], base_dim, extension_dim
    )
    per_head = pre_latents.unflatten(-1, (-1, base_dim + extension_dim))
    return per_head[..., :base_dim], per_head[..., base_dim:]


def require_heads(
    caller: str, name: str, width: int, base_dim: int, extension_dim: int
) -> tuple[int, int, int]:
    """Give m, n and the number of heads h if a fused width is h(m+n), else raise ValueError.

    Args:
        caller: The operation, for messages.
        name: What has the width, for messages.
        width: h(m+n).
        base_dim: m.
        extension_dim: n.
    """
    m = require_count(caller, "base_dim", base_dim, max(1, width), f"the width of {name}")
    n = require_count(caller, "extension_dim", extension_dim, max(1, width), f"the width of {name}")
    if width == 0 or width % (m + n):
        raise ValueError(
            f"{caller} was given {name} of width {width} with base_dim = {m} and extension_dim = {n}, and {width} is no multiple of {m + n}. Give "
            "h(m+n) columns for h heads."
        )
    return m, n, width // (m + n)


def _sqrt_where_on(x: torch.Tensor) -> torch.Tensor:
    """Return sqrt(x) where x > 0 and 0 where x ≤ 0, with gradient 0 (never NaN) there; NaN stays NaN."""
    off = x <= 0
    return torch.where(off, 0.0, torch.where(off, 1.0, x).sqrt())

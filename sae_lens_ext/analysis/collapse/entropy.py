"""How many directions a sequence's representations spread over: matrix Rényi entropy (read as in the code of arXiv 2502.09245)."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_ext.analysis.collapse.dimensions import DimensionStatistics
from sae_lens_ext.number_checks import require_bool, require_number

_SHANNON = 1e-8
"""Distance of α from 1 up to which the limit is taken: nearer, 1 − α is lost in rounding."""


def matrix_entropy(z: torch.Tensor, *, alpha: float = 0.5) -> float:
    """Measure the Rényi entropy of a sequence's Gram matrix (arXiv 2502.09245, representation collapse).

        p_i = λ_i(Z Zᵀ) / tr(Z Zᵀ),   S_α = ln(Σ_i p_i^α) / (1 − α)

    It is 0 where all rows lie on one line, and ln min(t, d), its maximum, where min(t, d) orthogonal directions are equally strong.
    Nothing is centred or scaled here; the paper's code z-scores each dimension over the data set first, which `sequence_entropies` does.
    The paper names no α; its code takes 0.5.

    λ_i are squared singular values of Z, in float64. A singular value up to max(t, d) · 2.2e-16 of the largest is rounding, and counts as 0.

    Args:
        z: One sequence, a row for each position, [t, d], of floating-point numbers.
        alpha: Order of the entropy, 0 or above. 0 gives the logarithm of the rank, 1 Shannon's entropy −Σ p ln p, infinity −ln max p.

    Returns:
        S_α in nats, from 0 to ln min(t, d).

    Raises:
        ValueError: z is no matrix of finite floating-point numbers, or is zero; alpha is negative or no number.
    """
    alpha = require_alpha("matrix_entropy", alpha)
    require_activations("matrix_entropy", "z", z, "[t, d]")
    return float(entropy_of_shares(eigenvalue_shares("matrix_entropy", z[None]), alpha)[0])


def sequence_entropies(z: torch.Tensor, *, alpha: float = 0.5, z_score: bool = True) -> torch.Tensor:
    """Measure the matrix entropy of each sequence of a data set, each dimension z-scored over all positions of all sequences.

    Args:
        z: The sequences, [n, t, d], of floating-point numbers.
        alpha: As for `matrix_entropy`.
        z_score: Take each dimension's mean over the n · t positions off, and divide by its standard deviation (of the population). A dimension
            that never changes becomes 0. False leaves z as it is, and then norms and a common mean decide much of the entropy.

    Returns:
        S_α in nats, [n], float64, on the CPU. The paper plots its mean.

    Raises:
        ValueError: z is no such tensor of finite numbers; a sequence is zero (with z_score: every dimension is constant); alpha is no order.
    """
    alpha = require_alpha("sequence_entropies", alpha)
    require_bool("sequence_entropies", "z_score", z_score)
    require_activations("sequence_entropies", "z", z, "[n, t, d]")
    if z_score:
        statistics = DimensionStatistics(z.shape[-1])
        statistics.add(z)
        z = statistics.z_score(z)
    return entropy_of_shares(eigenvalue_shares("sequence_entropies", z), alpha)


def eigenvalue_shares(caller: str, z: torch.Tensor) -> torch.Tensor:
    """Give the shares p_i of the eigenvalues of ZZᵀ, descending, [n, min(t, d)], float64, of sequences [n, t, d].

    Raises:
        ValueError: A sequence is zero.
    """
    z = z.detach().to("cpu", torch.float64)
    z = z / z.abs().amax(dim=(1, 2), keepdim=True).clamp(
        min=torch.finfo(torch.float64).tiny
    )  # squares neither overflow nor vanish
    wide = z.mT if z.shape[1] < z.shape[2] else z
    # R of QR has the singular values of the whole, and is small; this is three times faster than svdvals of a wide matrix.
    sigma = torch.linalg.svdvals(torch.linalg.qr(wide, mode="r").R)
    largest = sigma[:, :1]
    zero = (largest[:, 0] == 0).nonzero()
    if len(zero):
        raise ValueError(
            f"{caller} was given a sequence that is zero everywhere ({len(zero)} of {len(z)}, the first at {int(zero[0])}), which has no directions. "
            "Leave it out; if z-scoring made it zero, no dimension ever changes, and there is nothing to measure."
        )
    rounding = max(z.shape[1:]) * torch.finfo(torch.float64).eps
    relative = torch.where(sigma > rounding * largest, sigma / largest, 0.0)
    eigenvalues = relative.square()
    return eigenvalues / eigenvalues.sum(dim=1, keepdim=True)


def entropy_of_shares(shares: torch.Tensor, alpha: float) -> torch.Tensor:
    """Give S_α, [...], of shares [..., r] that sum to 1; a share of 0 adds nothing, whatever α is."""
    if alpha == math.inf:
        entropy = -shares.amax(dim=-1).log()
    elif abs(alpha - 1) < _SHANNON:
        entropy = torch.special.entr(shares).sum(dim=-1)
    else:
        # In logarithms, for powers of large orders underflow.
        powers = torch.where(shares > 0, alpha * shares.log(), -math.inf)
        entropy = powers.logsumexp(dim=-1) / (1 - alpha)
    return entropy.clamp(min=0.0)  # rounding may leave −1e-16


def require_alpha(caller: str, alpha: Any) -> float:
    """Give the order as a float; raise ValueError unless it is one number, 0 or above, infinity included."""
    if isinstance(alpha, float) and alpha == math.inf:
        return alpha
    order = require_number(caller, "alpha", alpha)
    if order < 0:
        raise ValueError(
            f"{caller} was given alpha = {alpha!r}. A Rényi entropy's order is not negative: give 0.5, or 1 for Shannon's entropy."
        )
    return order


def require_alphas(caller: str, alpha: Any) -> tuple[float, ...]:
    """Give one order or several as a tuple; raise ValueError if one is none, is given twice, or there is none."""
    several = isinstance(alpha, Sequence) and not isinstance(alpha, (str, bytes))
    orders = (
        tuple(require_alpha(caller, order) for order in alpha) if several else (require_alpha(caller, alpha),)
    )
    if not orders or len(set(orders)) < len(orders):
        raise ValueError(
            f"{caller} was given alpha = {alpha!r}. Give one order, such as 0.5, or several, each once."
        )
    return orders


def require_activations(caller: str, name: str, z: Any, shape: str) -> None:
    """Raise ValueError unless z is a tensor of finite floating-point numbers, of as many dimensions as `shape` has names, none empty."""
    if not isinstance(z, torch.Tensor):
        raise ValueError(f"{caller} was given {name} of type {type(z).__name__}. Give a tensor {shape}.")
    if z.ndim != shape.count(",") + 1 or z.numel() == 0 or not z.is_floating_point() or z.is_meta:
        raise ValueError(
            f"{caller} was given {name} of the shape {tuple(z.shape)} and type {z.dtype} on {z.device}. Give floating-point numbers {shape}."
        )
    if not torch.isfinite(z).all():
        raise ValueError(
            f"{caller} was given {name} with NaN or infinity in it. Look at the precision it was computed in: float16 overflows where bfloat16 does not."
        )

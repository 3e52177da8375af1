"""Logistic regression of two classes, with an L2 penalty and both classes weighted alike.

    L(w, b) = Σ_i c_i [softplus(z_i) − y_i z_i] + (l2 / 2) ‖w‖²,   z_i = w · x_i + b,   c_i = 1 / (2 · size of i's class)

The weights c sum to 1, so that l2 means the same for any number of samples; the bias is not penalised. L is strictly convex in w
and has one minimum, which L-BFGS finds with the gradient

    ∂L/∂w = Σ_i c_i (σ(z_i) − y_i) x_i + l2 · w,   ∂L/∂b = Σ_i c_i (σ(z_i) − y_i).
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
GRADIENT_AT_MINIMUM = 1e-4
"""Largest component of the gradient at which a fit counts as finished."""


@dataclass(frozen=True, eq=False)
class LogisticModel:
    """A linear classifier: class 1 where `logits` are above 0."""

    weights: Array
    """w, [d]."""
    bias: float
    """b."""

    def logits(self, x: Array) -> Array:
        """Give z = x · w + b of samples [n, d], [n]; the log odds of class 1 if both classes were equally common."""
        return x @ self.weights + self.bias


def class_weights(y: Array) -> Array:
    """Give each of n samples 1 / (2 · size of its class), [n]; they sum to 1.

    Args:
        y: [n] of 0 and 1, some of each.
    """
    return np.where(y == 1, 0.5 / (y == 1).sum(), 0.5 / (y == 0).sum())


def logistic_loss(parameters: Array, x: Array, y: Array, weights: Array, l2: float) -> tuple[float, Array]:
    """Give L and its gradient.

    Args:
        parameters: w and then b, [d + 1].
        x: Samples, [n, d].
        y: Their classes, [n], 0 or 1.
        weights: c, [n].
        l2: Strength of the penalty.

    Returns:
        L, and [d + 1].
    """
    w = parameters[:-1]
    z = x @ w + parameters[-1]
    loss = float(weights @ (np.logaddexp(0, z) - y * z) + l2 / 2 * (w @ w))
    error = weights * (expit(z) - y)
    return loss, np.append(error @ x + l2 * w, error.sum())


def fit_logistic(x: Array, y: Array, *, l2: float) -> LogisticModel:
    """Find the minimum of L.

    Args:
        x: Samples, [n, d], with components of about unit size.
        y: Their classes, [n] of 0 and 1.
        l2: Strength of the penalty, above 0.

    Returns:
        The model.

    Raises:
        ValueError: There are samples of one class alone, or L-BFGS does not come to the minimum.
    """
    if not ((y == 0).any() and (y == 1).any()):
        raise ValueError(
            f"fit_logistic was given {len(y)} samples of one class alone, so that there is nothing to tell apart. Give some of each."
        )
    found: Any = minimize(
        logistic_loss,
        np.zeros(x.shape[1] + 1),
        args=(x, y, class_weights(y), l2),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "maxfun": 20_000, "ftol": 1e-12, "gtol": 1e-7},
    )
    steepest = float(np.abs(found.jac).max())
    if not steepest <= GRADIENT_AT_MINIMUM:  # NaN, too
        raise ValueError(
            f"The logistic regression of {len(y)} samples with l2 = {l2} stopped after {found.nit} steps where the gradient is still {steepest:.2g} "
            f"({found.message}). Give a larger l2."
        )
    return LogisticModel(found.x[:-1], float(found.x[-1]))

"""Slow twins that a reader believes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from sae_lens_ext.analysis.collapse.probe import deal_into_folds
from sae_lens_ext.language_model import find_hook_point


def naive_entropy(z: torch.Tensor, alpha: float) -> float:
    """From the eigenvalues of the Gram matrix, one by one."""
    z = z.double()
    eigenvalues = [float(v) for v in torch.linalg.eigvalsh(z @ z.T)]
    trace = float((z @ z.T).trace())
    shares = [v / trace for v in eigenvalues if v > 1e-12 * trace]
    if alpha == 1:
        return -sum(p * math.log(p) for p in shares)
    return math.log(sum(p**alpha for p in shares)) / (1 - alpha)


def naive_z_score(z: torch.Tensor) -> torch.Tensor:
    """Over all positions of all sequences [n, t, d]."""
    rows = z.double().flatten(end_dim=1)
    scored = (z.double() - rows.mean(dim=0)) / rows.std(dim=0, correction=0)
    return torch.where(rows.amax(dim=0) == rows.amin(dim=0), 0.0, scored)


def naive_separability(x: torch.Tensor, y: torch.Tensor, folds: int, seed: int) -> list[float]:
    """Fold by fold, each standardised and fitted by itself without help of an eigenbasis, and to 1e-9."""
    fold = deal_into_folds(y, folds, seed)
    accuracies: list[float] = []
    for k in range(folds):
        train, test = x[fold != k].double(), x[fold == k].double()
        mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
        std = torch.where(std > 1e-12, std, 1.0)
        w, b = _fit(((train - mean) / std).numpy(), y[fold != k].numpy())
        predicted = (((test - mean) / std).numpy() @ w + b).argmax(axis=1)
        accuracies.append(float((predicted == y[fold == k].numpy()).mean()))
    return accuracies


def _fit(x: Any, y: Any) -> tuple[Any, Any]:
    d, k = x.shape[1], int(y.max()) + 1

    def loss(parameters: Any) -> tuple[float, Any]:
        w, b = parameters[:-k].reshape(d, k), parameters[-k:]
        z = x @ w + b
        z = z - z.max(axis=1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        error = p.copy()
        error[np.arange(len(y)), y] -= 1
        value = -np.log(p[np.arange(len(y)), y]).sum() + 0.5 * (w**2).sum()
        return float(value), np.concatenate([(x.T @ error + w).ravel(), error.sum(axis=0)])

    found: Any = minimize(
        loss,
        np.zeros(d * k + k),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 0, "gtol": 1e-7},
    )
    return found.x[:-k].reshape(d, k), found.x[-k:]


def activations(model: Any, tokens: torch.Tensor, hook: str) -> torch.Tensor:
    """What a hook sees, one sequence at a time, heads flattened."""
    found: list[torch.Tensor] = []

    def keep(x: torch.Tensor, hook: Any = None) -> None:
        found.append(x.detach().flatten(start_dim=2).clone())

    point = find_hook_point(model, hook)
    point.add_hook(keep)
    try:
        with torch.no_grad():
            for row in tokens:
                model(row[None])
    finally:
        point.remove_hooks("fwd")
    return torch.cat(found)


def by_layer(of: Callable[[int], Any], n_layers: int = 2) -> list[Any]:
    return [of(layer) for layer in range(n_layers)]

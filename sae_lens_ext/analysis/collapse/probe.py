"""Whether a linear probe tells classes apart: multinomial logistic regression, cross-validated (arXiv 2502.09245, separability)."""

import math
from typing import Any

import torch

from sae_lens_ext.analysis.collapse.dimensions import DimensionStatistics
from sae_lens_ext.analysis.collapse.entropy import require_activations
from sae_lens_ext.number_checks import require_seed, whole_number

TOLERANCE = 1e-4
"""Largest component of the gradient of the mean loss at which a fit counts as finished, in standardised dimensions; scikit-learn's default."""
_STEPS_AT_ONCE = 10
"""Steps of L-BFGS before the gradient is looked at."""
_MAX_STEPS = 5_000


def separability(features: torch.Tensor, labels: torch.Tensor, *, n_folds: int = 5, seed: int = 0) -> float:
    """Measure how well a linear probe tells classes apart on examples that it has not seen (arXiv 2502.09245).

    Multinomial logistic regression on each of `n_folds` stratified splits, in float64: it minimises

        Σ_i −ln softmax(W x_i + b)[y_i] + ½ ‖W‖²

    over the examples outside the fold, which is scikit-learn's `LogisticRegression` with C = 1; b is not penalised. Dimensions are standardised with mean
    and standard deviation of these examples alone [ours]; one that never changes in them has no say. L-BFGS stops where no component of the gradient, divided by the
    number of examples, is above 1e-4.

    Args:
        features: Examples, [n, d], of floating-point numbers.
        labels: Class of each, [n], whole numbers; at least two classes, each with at least `n_folds` examples.
        n_folds: Parts that the examples are dealt into, each class evenly; at least 2.
        seed: Of the order in which they are dealt.

    Returns:
        Accuracy, the mean over folds, 0 to 1. Chance is the share of the largest class: with k classes of equal size 1/k.

    Raises:
        ValueError: The features are no matrix of finite numbers, the labels no whole numbers for each; a class has too few examples; n_folds is no whole
            number of at least 2; L-BFGS does not come to the minimum.
    """
    return float(fold_accuracies("separability", features, labels, n_folds=n_folds, seed=seed).mean())


def fold_accuracies(
    caller: str, features: torch.Tensor, labels: torch.Tensor, *, n_folds: int, seed: int
) -> torch.Tensor:
    """Give the accuracy on each fold by the probe learnt without it, [folds], float64. Arguments as for `separability`."""
    require_folds(caller, n_folds)
    n_folds, seed = require_folds(caller, n_folds), require_seed(caller, seed)
    require_activations(caller, "features", features, "[n, d]")
    classes, y = _classes(caller, labels, len(features), n_folds)
    fold = deal_into_folds(y, n_folds, seed)
    x = features.detach().to("cpu", torch.float64)
    weights, biases = _fit(caller, x, y, fold, n_folds, classes)
    predicted = (torch.einsum("nd,fdk->fnk", x, weights) + biases[:, None]).argmax(dim=-1)
    right = (predicted[fold, torch.arange(len(y))] == y).double()
    return torch.stack([right[fold == k].mean() for k in range(n_folds)])


def deal_into_folds(y: torch.Tensor, n_folds: int, seed: int) -> torch.Tensor:
    """Give the fold of each example, [n]: of a class, and of all, no fold has more than one more than another.

    Args:
        y: Class of each, [n], whole numbers.
        n_folds: How many.
        seed: Of the order.
    """
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    by_class = order[y[order].argsort(stable=True)]
    fold = torch.empty(len(y), dtype=torch.long)
    fold[by_class] = torch.arange(len(y)) % n_folds
    return fold


def require_folds(caller: str, n_folds: Any) -> int:
    """Give `n_folds` as an int; raise ValueError unless it is a whole number of at least 2."""
    number = whole_number(n_folds)
    if number is None or number < 2:
        raise ValueError(
            f"{caller} was given n_folds = {n_folds!r}. Give a whole number of at least 2, such as 5."
        )
    return number


def _classes(caller: str, labels: Any, n: int, n_folds: int) -> tuple[int, torch.Tensor]:
    """Give the number of classes, and that of each example's, from 0."""
    if (
        not isinstance(labels, torch.Tensor)
        or labels.is_floating_point()
        or labels.is_complex()
        or labels.is_meta
        or labels.shape != (n,)
    ):
        what = (
            f"the shape {tuple(labels.shape)}, {labels.dtype}"
            if isinstance(labels, torch.Tensor)
            else type(labels).__name__
        )
        raise ValueError(
            f"{caller} was given labels of {what}, for {n} examples (rows of features). Give a tensor of whole numbers, [{n}]."
        )
    names, y, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    if len(names) < 2 or int(counts.min()) < n_folds:
        shown = ", ".join(
            f"{int(count)} of class {int(name)}" for name, count in zip(names, counts, strict=True)
        )
        raise ValueError(
            f"{caller} was given labels of {len(names)} classes, {shown}, and n_folds = {n_folds}. Give at least two classes, and of each at least {n_folds} examples, or fewer folds."
        )
    return len(names), y


def _fit(
    caller: str, x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor, n_folds: int, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit a probe without each fold, all at once; give weights [folds, d, classes] and biases [folds, classes] for examples as they were given.

    The problems are separate, but share the large matrix products. The mean that standardising takes off goes into the bias, which is free; the standard
    deviation s_f of the examples learnt from stays in the penalty. L-BFGS moves in the eigenvectors of the features' covariance, each scaled by what the
    curvature there is at the start: the minimum is the same, and it comes there in a fraction of the steps.
    """
    whole = DimensionStatistics(x.shape[1])
    whole.add(x)
    u = whole.z_score(x)
    n, d = u.shape
    learnt = fold[:, None] != torch.arange(n_folds)
    within = [_mean_and_scale(u[learnt[:, k]]) for k in range(n_folds)]
    mean, scale = (torch.stack([pair[i] for pair in within])[:, :, None] for i in (0, 1))  # [folds, d, 1]
    eigenvalues, vectors = torch.linalg.eigh(u.T @ u)
    curvature = (classes - 1) / classes**2  # p (1 − p) of each class at the start
    stretch = (eigenvalues.clamp(min=0) * curvature + 1).sqrt()[:, None]
    basis = vectors / stretch.T  # [d, d]
    a = u @ basis
    share = (learnt / learnt.sum(dim=0))[:, :, None].double()  # [n, folds, 1], what an example's loss counts
    penalty = 1 / learnt.sum(dim=0).double()[:, None, None]
    truth = share * torch.nn.functional.one_hot(y, classes)[:, None]  # [n, folds, classes]
    v = torch.zeros(d, n_folds * classes, dtype=torch.float64)
    b = torch.zeros(n_folds * classes, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [v, b],
        max_iter=_STEPS_AT_ONCE,
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def standardised() -> torch.Tensor:
        """Give W for standardised examples, [folds, d, classes]."""
        return scale * (basis @ v).reshape(d, n_folds, classes).transpose(0, 1)

    def loss() -> torch.Tensor:
        """Give the sum over folds of the mean loss, and leave its gradient at v and b."""
        w = standardised()
        log_p = torch.addmm(b, a, v).reshape(n, n_folds, classes).log_softmax(dim=-1)
        error = (share * log_p.exp() - truth).reshape(n, -1)
        v.grad = a.T @ error + basis.T @ (scale * penalty * w).transpose(0, 1).reshape(d, -1)
        b.grad = error.sum(dim=0)
        return -(truth * log_p).sum() + 0.5 * (penalty * w.square()).sum()

    def steepest() -> float:
        """Give the largest component of the gradient by W, of centred examples, and b."""
        loss()
        assert v.grad is not None and b.grad is not None
        by_u = vectors @ (stretch * v.grad)  # by weights of u
        by_w = by_u.reshape(d, n_folds, classes).transpose(0, 1) - mean * b.grad.reshape(n_folds, 1, classes)
        return max(float((by_w / scale).abs().max()), float(b.grad.abs().max()))

    steps, left = 0, math.inf
    while not left <= TOLERANCE:
        if steps >= _MAX_STEPS or math.isnan(left):
            raise ValueError(
                f"{caller}: the logistic regression of {n} examples of {d} dimensions has not come to its minimum in {steps} steps: the gradient is still "
                f"{left:.2g}. Look for single examples of very unlike size."
            )
        optimizer.step(loss)  # pyright: ignore[reportArgumentType]  it asks for the number alone
        steps, left = steps + _STEPS_AT_ONCE, steepest()
    weights = standardised() / scale / torch.where(whole.std > 0, whole.std, 1.0)[:, None]
    return weights, b.reshape(n_folds, classes) - torch.einsum("d,fdk->fk", whole.mean, weights)


def _mean_and_scale(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give mean and standard deviation of each dimension, [d]; 1 where it never changes."""
    statistics = DimensionStatistics(u.shape[1])
    statistics.add(u)
    return statistics.mean, torch.where(statistics.std > 0, statistics.std, 1.0)

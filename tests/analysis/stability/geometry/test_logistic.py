"""Logistic regression, against autograd, an optimum known in closed form, separable data, and what must not matter."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.analysis.stability.geometry import logistic
from sae_lens_ext.analysis.stability.geometry.logistic import class_weights, fit_logistic, logistic_loss
from tests.analysis.stability.labelled import rotation


def problem(n: int, d: int, seed: int) -> tuple[Any, Any]:
    """Two overlapping classes, a third of the samples in class 1."""
    generator = np.random.default_rng(seed)
    y = (np.arange(n) % 3 == 0).astype(float)
    return generator.normal(size=(n, d)) + 0.5 * y[:, None], y


@settings(max_examples=25)
@given(st.integers(2, 20), st.integers(1, 6), st.floats(1e-3, 10), st.integers(0, 10_000))
def test_logistic_loss_and_gradient_are_those_of_autograd(n: int, d: int, l2: float, seed: int) -> None:
    x, y = problem(n, d, seed)
    at = np.random.default_rng(seed + 1).normal(size=d + 1)
    parameters = torch.tensor(at, requires_grad=True)
    loss = l2 / 2 * (parameters[:-1] ** 2).sum()
    for label in (0, 1):  # the mean of both classes' mean
        samples, target = torch.from_numpy(x[y == label]), torch.from_numpy(y[y == label])
        logits = samples @ parameters[:-1] + parameters[-1]
        loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(logits, target) / 2
    loss.backward()
    found, gradient = logistic_loss(at, x, y, class_weights(y), l2)
    assert found == pytest.approx(loss.item())
    assert parameters.grad is not None
    assert gradient == pytest.approx(parameters.grad.numpy(), abs=1e-9)


def test_logistic_loss_of_far_samples_does_not_overflow() -> None:
    x, y = np.array([[1e6], [-1e6]]), np.array([1.0, 0.0])
    loss, gradient = logistic_loss(np.array([1.0, 0.0]), x, y, class_weights(y), 0.1)
    assert loss == pytest.approx(0.05) and gradient.tolist() == pytest.approx([0.1, 0])
    assert logistic_loss(np.array([-1.0, 0.0]), x, y, class_weights(y), 0.1)[0] == pytest.approx(1e6 + 0.05)


def test_class_weights_by_hand() -> None:
    assert class_weights(np.array([1.0, 0, 0, 0, 1])).tolist() == pytest.approx(
        [1 / 4, 1 / 6, 1 / 6, 1 / 6, 1 / 4]
    )


@pytest.mark.parametrize("w", [0.1, 0.5, 1.0, 3.0])
def test_fit_logistic_finds_the_optimum_of_two_points(w: float) -> None:
    # x = ±1: by symmetry b = 0, and w solves σ(−w) = l2 · w.
    l2 = 1 / (1 + math.exp(w)) / w
    model = fit_logistic(np.array([[1.0], [-1.0]]), np.array([1.0, 0.0]), l2=l2)
    assert model.weights.tolist() == pytest.approx([w], abs=1e-4) and model.bias == pytest.approx(0, abs=1e-4)
    # The same points moved by 2: the bias, which nothing penalises, takes it up.
    moved = fit_logistic(np.array([[3.0], [1.0]]), np.array([1.0, 0.0]), l2=l2)
    assert moved.weights.tolist() == pytest.approx([w], abs=1e-4)
    assert moved.bias == pytest.approx(-2 * w, abs=1e-3)


def test_fit_logistic_of_features_that_say_nothing_is_undecided_whatever_the_balance() -> None:
    model = fit_logistic(np.ones((10, 2)), np.array([1.0] * 9 + [0]), l2=0.1)
    assert model.weights.tolist() == pytest.approx([0, 0], abs=1e-5)
    assert model.logits(np.ones((1, 2))).tolist() == pytest.approx([0], abs=1e-5)


def test_fit_logistic_separates_what_a_plane_separates() -> None:
    x, y = problem(40, 5, seed=0)
    x[:, 2] = np.where(y == 1, 1.0, -1.0) * (1 + np.abs(x[:, 2]))
    assert ((fit_logistic(x, y, l2=1e-4).logits(x) > 0) == (y == 1)).all()


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_fit_logistic_is_the_same_in_any_basis_order_and_number(seed: int) -> None:
    x, y = problem(30, 4, seed)
    Q = rotation(4, seed).numpy()
    logits = fit_logistic(x, y, l2=0.05).logits(x)
    assert fit_logistic(x @ Q, y, l2=0.05).logits(x @ Q) == pytest.approx(logits, abs=1e-3)
    order = np.random.default_rng(seed).permutation(30)
    assert fit_logistic(x[order], y[order], l2=0.05).logits(x) == pytest.approx(logits, abs=1e-3)
    # Class 1 three times over: its weight stays the same.
    more, labels = np.concatenate([x, *[x[y == 1]] * 2]), np.concatenate([y, np.ones(20)])
    assert fit_logistic(more, labels, l2=0.05).logits(x) == pytest.approx(logits, abs=1e-3)
    assert fit_logistic(x, 1 - y, l2=0.05).logits(x) == pytest.approx(-logits, abs=1e-3)


def test_fit_logistic_of_one_class_says_so() -> None:
    for label in (0.0, 1.0):
        with pytest.raises(
            ValueError, match="3 samples of one class alone, so that there is nothing to tell apart"
        ):
            fit_logistic(np.ones((3, 2)), np.full(3, label), l2=0.1)


def test_fit_logistic_that_does_not_come_to_the_minimum_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(30, 4, seed=0)
    monkeypatch.setattr(logistic, "GRADIENT_AT_MINIMUM", 0.0)
    with pytest.raises(
        ValueError, match=r"of 30 samples with l2 = 0.01 stopped after \d+ steps .* Give a larger l2."
    ):
        fit_logistic(x, y, l2=0.01)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="the gradient is still nan"):
        fit_logistic(x * np.nan, y, l2=0.01)

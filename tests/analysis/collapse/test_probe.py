"""The linear probe: known answers, a slow twin, and refusals."""

from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.collapse import separability
from sae_lens_ext.analysis.collapse.probe import deal_into_folds, fold_accuracies
from tests.analysis.collapse.naive import naive_separability


def blobs(
    n_each: int, d: int, classes: int, noise: float, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat_interleave(n_each)
    centres = torch.randn(classes, d, generator=generator)
    return centres[y] + noise * torch.randn(len(y), d, generator=generator), y


def test_classes_far_apart_are_told_apart() -> None:
    assert separability(*blobs(20, 6, 4, 0.01)) == 1.0


def test_classes_that_no_line_separates_are_not() -> None:
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]).repeat(25, 1)
    y = torch.tensor([0, 0, 1, 1]).repeat(25)
    assert separability(x, y) <= 0.75  # a line has three corners on its side at most
    assert separability(torch.cat([x, x[:, :1] * x[:, 1:]], dim=1), y) == 1.0


def test_random_labels_are_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 5, generator=generator)
    y = torch.arange(4).repeat(300)
    assert separability(x, y) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 1200) ** 0.5)


def test_a_dimension_that_never_changes_has_no_say() -> None:
    x, y = blobs(15, 4, 3, 1.5)
    with_constant = torch.cat([x, torch.full((len(x), 1), 0.1)], dim=1)
    assert separability(with_constant, y) == separability(x, y)


def test_features_that_say_nothing_are_at_chance() -> None:
    assert separability(torch.full((40, 3), 0.1), torch.arange(4).repeat(10)) == 0.25


@pytest.mark.parametrize("noise", [0.5, 1.5, 3.0])
@pytest.mark.parametrize(("d", "classes"), [(3, 2), (8, 4), (80, 3)])
def test_agrees_with_a_fit_fold_by_fold(noise: float, d: int, classes: int) -> None:
    x, y = blobs(20, d, classes, noise)
    x = x * torch.logspace(-3, 3, d) + 7  # standardising undoes it
    found = fold_accuracies("test", x, y, n_folds=4, seed=3)
    assert found.tolist() == pytest.approx(naive_separability(x, y, 4, 3))


def test_a_dimension_that_changes_in_one_fold_alone_agrees_too() -> None:
    x, y = blobs(12, 4, 3, 1.0)
    x[:, 0] = 2.0
    x[(deal_into_folds(y, 4, 0) == 1).nonzero()[0], 0] = 50.0
    found = fold_accuracies("test", x, y, n_folds=4, seed=0)
    assert found.tolist() == pytest.approx(naive_separability(x, y, 4, 0))


def test_the_scale_of_dimensions_is_no_matter() -> None:
    x, y = blobs(25, 5, 4, 1.0)
    other = x.double() * torch.tensor([1e-6, 1.0, 3.0, 1e4, -1.0]) + torch.tensor([0.0, 1e5, 0.0, -3.0, 1.0])
    assert separability(other, y) == separability(x.double(), y)


def test_names_of_classes_are_no_matter() -> None:
    x, y = blobs(10, 3, 3, 1.0)
    assert separability(x, torch.tensor([40, -2, 7])[y].to(torch.int32)) == pytest.approx(
        separability(x, torch.tensor([2, 0, 1])[y])
    )


def test_the_seed_alone_decides_the_folds() -> None:
    x, y = blobs(30, 3, 4, 1.5)
    torch.manual_seed(7)
    first = fold_accuracies("test", x, y, n_folds=5, seed=1)
    state = torch.get_rng_state()
    assert torch.equal(first, fold_accuracies("test", x, y, n_folds=5, seed=1))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, fold_accuracies("test", x, y, n_folds=5, seed=2))


def test_folds_hold_every_class_evenly() -> None:
    y = torch.tensor([0] * 11 + [1] * 7 + [2] * 5)
    fold = deal_into_folds(y, 3, 0)
    for of in [fold, *(fold[y == k] for k in range(3))]:
        counts = of.bincount(minlength=3)
        assert int(counts.max() - counts.min()) <= 1


def test_gradients_are_not_asked_for() -> None:
    x, y = blobs(10, 3, 2, 0.1)
    with torch.inference_mode():
        assert separability(x, y) == 1.0
    assert separability(x.requires_grad_(), y) == 1.0


@pytest.mark.parametrize(
    ("features", "labels", "folds", "match"),
    [
        (torch.randn(10), torch.arange(10), 2, r"\[n, d\]"),
        (torch.full((4, 2), torch.nan), torch.tensor([0, 0, 1, 1]), 2, "NaN"),
        (torch.randn(4, 2), torch.tensor([0, 0, 1]), 2, r"labels of the shape \(3,\).*for 4 examples"),
        (torch.randn(4, 2), torch.tensor([0.0, 0, 1, 1]), 2, "float32.*whole numbers"),
        (torch.randn(4, 2), [0, 0, 1, 1], 2, "labels of list"),
        (torch.randn(4, 2), torch.zeros(4, dtype=torch.long), 2, "4 of class 0.*at least two classes"),
        (
            torch.randn(5, 2),
            torch.tensor([0, 0, 0, 1, 1]),
            3,
            "3 of class 0, 2 of class 1, and n_folds = 3",
        ),
        (torch.randn(4, 2), torch.tensor([0, 0, 1, 1]), 1, "n_folds = 1"),
        (torch.randn(4, 2), torch.tensor([0, 0, 1, 1]), True, "n_folds = True"),
        (torch.randn(4, 2), torch.tensor([0, 0, 1, 1]), 2.5, "n_folds = 2.5"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(features: Any, labels: Any, folds: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        separability(features, labels, n_folds=folds)

"""Numbers of other libraries, differences, and how interventions show themselves."""

from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_ext.steering import (
    AblateFeature,
    AddFeature,
    AddVector,
    ClampFeature,
    ScaleFeature,
)
from tests.steering.by_hand import NAN, after, hand_sae
from tests.steering.naive import EARLY, sae_at


def test_a_feature_may_be_numbered_by_numpy_and_pytorch() -> None:
    sae = sae_at(EARLY)
    for index in (np.int64(3), torch.tensor(3), np.array(3), torch.tensor([5, 3]).argmin()):
        for made in (AddFeature(sae, index, 1.0), AblateFeature(sae, index), ClampFeature(sae, index, 1.0)):
            assert type(made.index) is int and made.index == int(index)
    for index in (
        torch.tensor(1.0),
        torch.tensor([1, 2]),
        np.array([1, 2]),
        np.bool_(True),
        torch.tensor(True),
    ):
        with pytest.raises(ValueError, match="an int; add interventions for several"):
            AblateFeature(sae, index)  # type: ignore[arg-type]


def test_numbers_may_be_of_numpy_and_pytorch() -> None:
    sae = sae_at(EARLY)
    for number in (np.float32(0.5), torch.tensor(0.5), np.array(0.5)):
        made: list[Any] = [
            AddVector(EARLY, torch.ones(2), number).strength,  # type: ignore[arg-type]
            AddFeature(sae, 1, number).strength,  # type: ignore[arg-type]
            ScaleFeature(sae, 1, number).factor,  # type: ignore[arg-type]
            ClampFeature(sae, 1, number).value,  # type: ignore[arg-type]
        ]
        assert made == [0.5] * 4 and {type(value) for value in made} == {float}
    with pytest.raises(ValueError, match="requires grad, but gradients do not reach it"):
        AddFeature(sae, 1, torch.tensor(0.5, requires_grad=True))  # type: ignore[arg-type]
    for number in (torch.tensor([1.0, 2.0]), torch.tensor(NAN), torch.tensor(True)):
        with pytest.raises(ValueError, match="Give a finite number"):
            AddFeature(sae, 1, number)  # type: ignore[arg-type]


def test_a_difference_adds_the_one_and_takes_the_other_away() -> None:
    one, other = AddVector(EARLY, torch.tensor([3.0, 4.0])), AblateFeature(hand_sae(), 1)
    assert after(one - other, [2.0, 5.0]) == [[5.0, 17.0]]
    assert after(one - one, [2.0, 5.0]) == [[2.0, 5.0]]
    assert after((one - other) / 2, [2.0, 5.0]) == [[3.5, 11.0]]
    with pytest.raises(TypeError):
        one - 3  # type: ignore[operator]
    with pytest.raises(ValueError, match="AddVector was divided by 0"):
        one / 0
    with pytest.raises(ValueError, match="a divisor = 'two'"):
        one / "two"  # type: ignore[operator]


def test_vectors_that_nobody_trains_are_summed_once() -> None:
    vectors = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    trained = torch.tensor([1.0, 1.0], requires_grad=True)
    [(_, hook)] = (
        AddVector(EARLY, vectors[0]) + AddVector(EARLY, vectors[1], 2.0) + AddVector(EARLY, trained)
    ).hooks()
    x = torch.zeros(1, 1, 2)
    assert hook(x).tolist() == [[[8.0, 11.0]]]
    with torch.no_grad():
        vectors[0].zero_()
        trained.zero_()
    assert hook(x).tolist() == [[[7.0, 10.0]]]  # what is trained is read at every pass


def test_vectors_summed_under_inference_mode_let_gradients_through() -> None:
    with torch.inference_mode():
        [(_, hook)] = AddVector(EARLY, torch.tensor([3.0, 4.0]), relative=True).hooks()
    x = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    hook(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[[1 + 1.4, 1.0]]]))


def test_a_repr_shows_what_is_not_default() -> None:
    sae = sae_at(EARLY)
    assert repr(AddVector("a", torch.ones(3))) == "AddVector('a', [3], strength=1)"
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert (
        repr(AddVector("a", torch.ones(3), 2.5, mask, ("prompt",), relative=True))
        == "AddVector('a', [3], strength=2.5, positions=mask [2, 5], phases=('prompt',), relative=True)"
    )
    assert repr(AddFeature(sae, 3, 1.0)) == f"AddFeature({EARLY!r}, 3, strength=1)"
    assert (
        repr(ClampFeature(sae, 3, 5.0, "b", slice(1, None), weight=0.5))
        == f"ClampFeature({EARLY!r}, 3, value=5, hook_name='b', positions=slice(1, None, None), weight=0.5)"
    )
    both = AblateFeature(sae, 1, phases=("generation", "prompt")) + ScaleFeature(sae, 2, -1.0)
    assert repr(both) == f"AblateFeature({EARLY!r}, 1) + ScaleFeature({EARLY!r}, 2, factor=-1)"

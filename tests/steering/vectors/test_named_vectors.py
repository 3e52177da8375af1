from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.steering import (
    AblateFeature,
    AddFeature,
    AddVector,
    ClampFeature,
    InterventionSum,
    ScaleFeature,
)
from sae_lens_ext.steering.vectors import SteeringVectors, named_vectors
from tests.steering.by_hand import hand_sae

RES = "blocks.{}.hook_resid_post"


def read(value: Any, width: int = 2) -> dict[str, tuple[int | None, list[float]]]:
    return {
        label: (layer, vector.tolist())
        for label, (layer, vector) in named_vectors("reader", value, width).items()
    }


def test_a_tensor_is_one_vector_without_a_layer() -> None:
    assert read(torch.tensor([1.0, 2.0])) == {"vector": (None, [1.0, 2.0])}
    assert read(torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.bfloat16))) == {
        "vector": (None, [1.0, 2.0])
    }


def test_a_decoder_row_is_read_as_it_is() -> None:
    assert read(hand_sae().W_dec[0]) == {"vector": (None, [3.0, 4.0])}


def test_steering_vectors_are_named_by_layer() -> None:
    vectors = SteeringVectors({7: torch.tensor([1.0, 2.0]), 3: torch.tensor([0.0, -1.0])})
    assert read(vectors) == {"layer 3": (3, [0.0, -1.0]), "layer 7": (7, [1.0, 2.0])}


def test_layers_that_steer_nothing_are_left_out_unless_they_are_all() -> None:
    assert list(read(SteeringVectors({0: torch.zeros(2), 1: torch.ones(2)}))) == ["layer 1"]
    with pytest.raises(ValueError, match="reader was given steering vectors that are all zero"):
        read(SteeringVectors({0: torch.zeros(2)}))


def test_a_mapping_keeps_its_labels_and_its_order() -> None:
    value = {"truth": torch.tensor([1.0, 0.0]), 3: torch.tensor([0.0, 1.0], dtype=torch.float64)}
    assert list(read(value).items()) == [("truth", (None, [1.0, 0.0])), ("layer 3", (3, [0.0, 1.0]))]


def test_interventions_count_with_their_strength() -> None:
    assert read(AddVector(RES.format(3), torch.tensor([1.0, 2.0]), -2.0)) == {
        RES.format(3): (3, [-2.0, -4.0])
    }
    sae = hand_sae()
    assert next(iter(read(AddFeature(sae, 0, 10.0)).values()))[1] == pytest.approx([6.0, 8.0])


def test_what_is_added_at_one_hook_is_summed_under_either_name_of_it() -> None:
    total = (
        AddVector(RES.format(1), torch.tensor([1.0, 0.0]))
        + AddVector("blocks.0.hook_mlp_out", torch.tensor([5.0, 5.0]))
        + AddVector("blocks.1.hook_out", torch.tensor([0.0, 1.0]), 3.0)
        + AddVector("blocks.0.mlp.hook_out", torch.tensor([1.0, 1.0]))
    )
    assert read(total) == {RES.format(1): (1, [1.0, 3.0]), "blocks.0.hook_mlp_out": (0, [6.0, 6.0])}


@settings(max_examples=25)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=6))
def test_the_sum_is_what_steering_adds(strengths: list[float]) -> None:
    vectors = torch.randn(len(strengths), 2, generator=torch.Generator().manual_seed(0))
    total = InterventionSum([AddVector(RES.format(0), v, s) for v, s in zip(vectors, strengths, strict=True)])
    [(_, hook)] = total.hooks()
    added: Any = hook(torch.zeros(1, 1, 2))[0, 0]
    if not added.any():
        return
    torch.testing.assert_close(
        named_vectors("reader", total, 2)[RES.format(0)][1], added, rtol=1e-4, atol=1e-5
    )


def test_interventions_of_steering_vectors_are_these_vectors() -> None:
    vectors = SteeringVectors({0: torch.tensor([1.0, 2.0]), 2: torch.tensor([3.0, 4.0])})
    assert read(vectors.interventions(strength=2)) == {
        RES.format(0): (0, [2.0, 4.0]),
        RES.format(2): (2, [6.0, 8.0]),
    }


def test_what_is_given_back_shares_no_memory_and_no_gradient() -> None:
    value = torch.ones(2, requires_grad=True)
    steering = SteeringVectors({0: torch.ones(2)})
    for given_value in (value, {"a": value}, steering, AddVector(RES.format(0), value)):
        for _, vector in named_vectors("reader", given_value, 2).values():
            assert vector.dtype == torch.float32 and not vector.requires_grad
            vector.zero_()
    assert value.tolist() == [1.0, 1.0]
    assert steering[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("blocks.0", "reader was given str as vectors. Give a tensor"),
        ([torch.ones(2)], "reader was given list as vectors"),
        ({}, "reader was given an empty mapping"),
        (
            torch.ones(3),
            "reader was given 'vector' with 3 numbers, but the model's residual stream has width 2",
        ),
        (torch.ones(1, 2, 3), r"the shape \[1, 2, 3\]"),
        (torch.ones(2, dtype=torch.int64), "type torch.int64"),
        (torch.tensor([float("nan"), 1.0]), "the vector with NaN or infinity"),
        (torch.zeros(2), "reader was given 'vector' as a vector of zeros"),
        ({"a": torch.ones(2), "b": torch.zeros(2)}, "reader was given 'b' as a vector of zeros"),
        ({"a": torch.ones(3)}, "'a' with 3 numbers"),
        ({"a": [1.0, 2.0]}, "'a' as list"),
        ({-1: torch.ones(2)}, "-1 as a layer. Layers are whole numbers"),
        ({True: torch.ones(2)}, "True as a layer"),
        ({1.5: torch.ones(2)}, "1.5 as a layer"),
        ({"layer 1": torch.ones(2), 1: torch.ones(2)}, "the label 'layer 1' twice"),
        (SteeringVectors({0: torch.ones(3)}), "'layer 0' with 3 numbers"),
        (AddVector(RES.format(0), torch.ones(3)), f"'{RES.format(0)}' with 3 numbers"),
        (AddVector(RES.format(0), torch.ones(2), 0.0), "as a vector of zeros"),
        (
            AddVector(RES.format(0), torch.ones(2)) - AddVector(RES.format(0), torch.ones(2)),
            "as a vector of zeros",
        ),
        (AddVector(RES.format(0), torch.ones(2), relative=True), "relative to each token's activation"),
        (AddVector("blocks.0.attn.hook_z", torch.ones(2)), "no place of the residual stream"),
        (
            AddVector(RES.format(0), torch.ones(2)) + AddVector(RES.format(0), torch.ones(3)),
            "vectors of the widths 2 and 3",
        ),
        (
            AddVector(RES.format(0), torch.ones(2), positions=0) + AddVector(RES.format(0), torch.ones(2)),
            "on different tokens at .* so their sum is added nowhere",
        ),
        (ScaleFeature(hand_sae(), 0, 2.0), "ScaleFeature.* adds no fixed vector"),
        (ClampFeature(hand_sae(), 0, 2.0), "ClampFeature.* adds no fixed vector"),
        (AblateFeature(hand_sae(), 0), "AblateFeature.* adds no fixed vector"),
        (AddVector(RES.format(0), torch.ones(2)) + AblateFeature(hand_sae(), 0), "adds no fixed vector"),
    ],
)
def test_what_holds_no_vectors_of_the_stream_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(value)


def test_equal_selections_of_tokens_are_summed() -> None:
    parts = [AddVector(RES.format(0), torch.ones(2), positions=slice(1, None)) for _ in range(2)]
    assert read(parts[0] + parts[1]) == {RES.format(0): (0, [2.0, 2.0])}

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.vectors.conftest import random_vectors


def test_layers_are_sorted_and_read_like_a_mapping() -> None:
    given = random_vectors(7, 2, 5)
    vectors = SteeringVectors(given)
    assert vectors.layers == (2, 5, 7) == tuple(vectors) == tuple(vectors.vectors)
    assert len(vectors) == 3
    assert vectors.d_model == 16
    assert 5 in vectors and 3 not in vectors and "5" not in vectors
    assert torch.equal(vectors[7], given[7])
    assert vectors.norms == pytest.approx({layer: given[layer].norm().item() for layer in (2, 5, 7)})


def test_what_was_given_and_what_is_kept_do_not_share_memory() -> None:
    given = random_vectors(0, 1)
    before = {layer: vector.clone() for layer, vector in given.items()}
    provenance = {"prompts": ["a"]}
    vectors = SteeringVectors(given, provenance)
    for vector in given.values():
        vector.zero_()
    provenance["prompts"].append("b")
    given[2] = torch.ones(16)
    assert vectors.layers == (0, 1)
    assert all(torch.equal(vectors[layer], before[layer]) for layer in vectors)
    assert vectors.provenance == {"prompts": ["a"]}


def test_what_is_given_is_left_as_it_was() -> None:
    given = {0: torch.ones(4, dtype=torch.float16, requires_grad=True)}
    SteeringVectors(given)
    assert given[0].dtype == torch.float16
    assert given[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_kept_as_float32(dtype: torch.dtype) -> None:
    given = torch.tensor([1.5, -0.25], dtype=dtype, requires_grad=True)
    kept = SteeringVectors({3: given})[3]
    assert kept.dtype == torch.float32
    assert not kept.requires_grad
    assert kept.tolist() == [1.5, -0.25]


def test_it_is_frozen() -> None:
    vectors = SteeringVectors(random_vectors(0))
    with pytest.raises(AttributeError):
        vectors.vectors = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        vectors.vectors[0] = torch.zeros(16)  # type: ignore[index]


def test_comparison_is_of_identity() -> None:
    given = random_vectors(0)
    assert SteeringVectors(given) != SteeringVectors(given)
    assert len({SteeringVectors(given), SteeringVectors(given)}) == 2


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_it_can_be_copied_and_pickled(copied: Any) -> None:
    vectors = SteeringVectors(random_vectors(0, 4), {"made_by": "hand"})
    again = copied(vectors)
    assert again.layers == (0, 4)
    assert all(torch.equal(again[layer], vectors[layer]) for layer in vectors)
    assert again.provenance == {"made_by": "hand"}


def test_layers_may_be_numpys_whole_numbers() -> None:
    assert SteeringVectors({np.int64(3): torch.ones(2)}).layers == (3,)  # type: ignore[dict-item]


@pytest.mark.parametrize("layer", [-1, True, "3", 1.0, None])
def test_a_key_that_is_no_layer_is_refused(layer: Any) -> None:
    with pytest.raises(
        ValueError, match=f"was given {layer!r} as a layer. Layers are whole numbers from 0 on."
    ):
        SteeringVectors({layer: torch.ones(2)})


def test_one_layer_under_two_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 3 twice"):
        SteeringVectors({3: torch.ones(2), torch.tensor(3): torch.ones(2)})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "was given no vector. Give at least one layer's"),
        ([torch.ones(2)], r"was given list. Give a mapping of layers to vectors"),
        ({0: [1.0, 2.0]}, "the vector of layer 0 as list. Give a tensor"),
        (
            {0: torch.ones(2, dtype=torch.int64)},
            r"the vector of layer 0 with the shape \[2\] and type torch.int64",
        ),
        ({0: torch.ones(2, dtype=torch.complex64)}, "type torch.complex64"),
        ({4: torch.ones(1, 2)}, r"the vector of layer 4 with the shape \[1, 2\]"),
        ({4: torch.ones(0)}, r"the shape \[0\]"),
        (
            {4: torch.ones(2), 6: torch.tensor([1.0, float("nan")])},
            "the vector of layer 6 with NaN or infinity in it",
        ),
        ({6: torch.tensor([1.0, float("inf")])}, "the vector of layer 6 with NaN or infinity in it"),
        (
            {6: torch.tensor([1.0, 1e60], dtype=torch.float64)},
            "the vector of layer 6 with numbers too large for float32",
        ),
        ({6: torch.ones(2, device="meta")}, "the vector of layer 6 on the meta device"),
        ({1: torch.ones(2), 0: torch.ones(3)}, "different widths: 3 in layer 0, 2 in layer 1"),
    ],
)
def test_what_is_no_vector_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteeringVectors(given)


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        (["a"], "no mapping of names to values"),
        ({1: "a"}, "no mapping of names to values"),
        ({"reward": torch.ones(2)}, "cannot be written as JSON .*Tensor"),
        ({"reward": float("nan")}, "cannot be written as JSON"),
    ],
)
def test_a_provenance_that_could_not_be_saved_is_refused_at_once(provenance: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteeringVectors(random_vectors(0), provenance)


def test_an_absent_layer_is_named_with_those_that_are_there() -> None:
    with pytest.raises(
        ValueError, match="There is no steering vector of layer 1. There are of layers 0, 2, 3"
    ):
        SteeringVectors(random_vectors(0, 2, 3))[1]
    with pytest.raises(ValueError, match="Layers are whole numbers"):
        SteeringVectors(random_vectors(0))[-1]


def test_only_keeps_some_layers() -> None:
    vectors = SteeringVectors(random_vectors(0, 2, 3), {"made_by": "hand"})
    kept = vectors.only(3, 0)
    assert kept.layers == (0, 3)
    assert torch.equal(kept[3], vectors[3])
    assert kept.provenance == {"made_by": "only", "layers": [0, 3], "of": {"made_by": "hand"}}
    with pytest.raises(ValueError, match="given no layer"):
        vectors.only()
    with pytest.raises(ValueError, match="no steering vector of layer 1"):
        vectors.only(0, 1)


def test_zeros_are_of_the_models_layers_and_width(any_model: Any) -> None:
    vectors = SteeringVectors.zeros(any_model)
    assert vectors.layers == (0, 1)
    assert vectors.d_model == 16
    assert set(vectors.norms.values()) == {0.0}
    assert SteeringVectors.zeros(any_model, [1]).layers == (1,)
    with pytest.raises(
        ValueError, match="has vectors of layers 2, 5, but the model .* has the layers 0 to 1"
    ):
        SteeringVectors.zeros(any_model, [1, 2, 5])
    with pytest.raises(ValueError, match="Layers are whole numbers"):
        SteeringVectors.zeros(any_model, [-1])
    with pytest.raises(ValueError, match=r"layers = 1. Give None for all"):
        SteeringVectors.zeros(any_model, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layers = \[\]"):
        SteeringVectors.zeros(any_model, [])


def test_a_table_has_a_row_per_layer() -> None:
    vectors = SteeringVectors({1: torch.tensor([3.0, -4.0]), 2: torch.tensor([0.0, 2.0]), 5: torch.zeros(2)})
    frame = vectors.to_frame()
    assert frame["layer"].tolist() == [1, 2, 5]
    assert frame["norm"].tolist() == [5.0, 2.0, 0.0]
    assert frame["largest_value"].tolist() == [-4.0, 2.0, 0.0]
    assert frame["largest_coordinate"].tolist() == [1, 1, 0]
    assert frame["cosine_to_previous"][1] == pytest.approx(-0.8)
    assert frame["cosine_to_previous"].isna().tolist() == [True, False, True]


def test_a_figure_has_a_bar_per_layer() -> None:
    figure = SteeringVectors({1: torch.tensor([3.0, -4.0]), 2: torch.tensor([0.0, 2.0])}).plot()
    assert list(figure.data[0].x) == [1, 2]
    assert list(figure.data[0].y) == [5.0, 2.0]


def test_it_shows_itself_in_three_lines_and_as_a_table() -> None:
    vectors = SteeringVectors(random_vectors(1, 2, 3), {"made_by": "<hand>", "model_name": "tiny"})
    lines = repr(vectors).splitlines()
    assert len(lines) == 3
    assert lines[0] == "SteeringVectors of layers 1 to 3, d_model 16"
    assert "from <hand>, tiny" in lines[2]
    assert "<table" in vectors._repr_html_() and "&lt;hand&gt;" in vectors._repr_html_()
    assert "without provenance" in repr(SteeringVectors(random_vectors(4)))
    assert "of layer 4," in repr(SteeringVectors(random_vectors(4)))

"""What `logit_lens` refuses."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sae_lens_ext.steering.reading.lens import logit_lens
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.reading.lens.by_hand import stub, vectors


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"measure": "cos"}, "measure = 'cos'. Give 'cosine' or 'dot'"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"final_norm": "yes"}, "final_norm = 'yes'. Give True or False"),
        ({"seed": "x"}, "seed = 'x'. Give a whole number"),
    ],
)
def test_settings_that_are_none_are_refused(hooked_model: Any, settings: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        logit_lens(hooked_model, vectors(), **settings)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (torch.zeros(16), "vector of zeros"),
        (torch.full((16,), torch.nan), "NaN or infinity"),
        (torch.ones(15), "15 numbers, but the model's residual stream has width 16"),
        ([1.0] * 16, "was given list"),
    ],
)
def test_vectors_that_are_none_are_refused(hooked_model: Any, given: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        logit_lens(hooked_model, given)


def test_a_vector_that_the_final_norm_takes_away_is_refused(hooked_model: Any) -> None:
    with pytest.raises(ValueError, match="LayerNorm leaves nothing: all its entries are equal"):
        logit_lens(hooked_model, {"flat": torch.full((16,), 0.3)}, final_norm=True)


def test_models_without_an_unembedding_are_refused(hooked_model: Any, native_bridge: Any) -> None:
    del hooked_model.unembed
    del native_bridge.unembed
    bare = SimpleNamespace(cfg=SimpleNamespace(d_model=16))
    for model in (hooked_model, native_bridge, bare):
        with pytest.raises(ValueError, match=f"{type(model).__name__}, a model without an unembedding W_U"):
            logit_lens(model, vectors())


def test_encoders_are_refused(hooked_model: Any) -> None:
    hooked_model.mlm_head = torch.nn.Identity()
    with pytest.raises(ValueError, match="a further head between the residual stream and the unembedding"):
        logit_lens(hooked_model, vectors())


@pytest.mark.parametrize("W_U", [torch.ones(15, 32), torch.ones(16), torch.ones(16, 32, dtype=torch.int8)])
def test_an_unembedding_that_is_no_matrix_is_refused(W_U: torch.Tensor) -> None:
    model = stub(W_U)
    model.cfg.d_model = 16
    with pytest.raises(ValueError, match=r"whose W_U is .*, not \[d_model = 16, d_vocab\]"):
        logit_lens(model, vectors())


def test_an_unembedding_with_NaN_is_refused() -> None:
    W_U = torch.randn(16, 32)
    W_U[3, 7] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity for a token"):
        logit_lens(stub(W_U), vectors())


def test_a_tokenizer_of_another_model_is_refused() -> None:
    tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 50})
    with pytest.raises(ValueError, match="knows none of the 32 tokens"):
        logit_lens(stub(torch.randn(16, 32), tokenizer), vectors())


def test_a_final_norm_of_another_kind_is_refused(native_bridge: Any) -> None:
    native_bridge.ln_final.set_original_component(torch.nn.Tanh())
    with pytest.raises(ValueError, match="no final norm that is a LayerNorm or RMSNorm"):
        logit_lens(native_bridge, vectors(), final_norm=True)
    with pytest.raises(ValueError, match=r"no final norm that is .* \(its ln_final is NoneType\)"):
        logit_lens(stub(torch.randn(16, 32)), vectors(), final_norm=True)


def test_a_layer_that_the_model_lacks_is_refused(hooked_model: Any) -> None:
    with pytest.raises(ValueError, match="vectors of layer 9, but the model .* has the layers 0 to 1"):
        logit_lens(hooked_model, SteeringVectors({1: torch.ones(16), 9: torch.ones(16)}))

"""Reading on from padded texts gives what each text gives by itself, with and without a key-value cache, gradients too."""

from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

from sae_lens_ext.language_model import evaluating, read_texts, stop_tokens
from sae_lens_ext.language_model.continuation import (
    _BridgeContinuation,
    _has_rows,
    _HookedTransformerContinuation,
)
from tests.conftest import TINY

TEXTS = [torch.tensor([0, 5, 6, 7]), torch.tensor([0, 9]), torch.tensor([0, 11, 12])]
NEXT = torch.tensor([[3, 4], [5, 6], [7, 8]])


@pytest.fixture(params=["hooked_model", "sae_bridge", "native_bridge", "plain"])
def any_model(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Each kind of model in turn, a HookedTransformer that no SAE can be attached to as well."""
    if request.param != "plain":
        return request.getfixturevalue(request.param)
    cfg = HookedTransformerConfig(**TINY, normalization_type="LN", device="cpu")
    return HookedTransformer(cfg, tokenizer=tokenizer).eval()


def alone(model: Any, text: torch.Tensor) -> torch.Tensor:
    return model(text[None], return_type="logits")[0]


@pytest.mark.parametrize("cached", [True, False])
def test_rows_are_what_each_text_is_by_itself(any_model: Any, cached: bool) -> None:
    texts = read_texts(any_model, TEXTS, cached=cached)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(texts.last_logits[row], alone(any_model, text)[-1], atol=1e-5, rtol=1e-5)
    first = texts.go_on(NEXT[:, :1])
    second = texts.go_on(NEXT[:, 1:])
    for row, text in enumerate(TEXTS):
        whole = alone(any_model, torch.cat([text, NEXT[row]]))
        torch.testing.assert_close(torch.cat([first, second], dim=1)[row], whole[-2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cached", [True, False])
def test_rows_can_be_repeated_and_dropped(any_model: Any, cached: bool) -> None:
    texts = read_texts(any_model, TEXTS, cached=cached)
    texts.repeat(2)
    texts.keep(torch.tensor([5, 1, 1]))
    logits = texts.go_on(NEXT)
    for row, text in enumerate((TEXTS[2], TEXTS[0], TEXTS[0])):
        whole = alone(any_model, torch.cat([text, NEXT[row]]))
        torch.testing.assert_close(logits[row], whole[-2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cached", [True, False])
def test_gradients_flow_through_what_was_read(any_model: Any, cached: bool) -> None:
    parameter = next(p for p in any_model.parameters() if p.ndim > 1)
    texts = read_texts(any_model, TEXTS, cached=cached)
    texts.repeat(2)
    texts.go_on(NEXT.repeat(2, 1)).log_softmax(-1)[:, :, 3].sum().backward()
    found, parameter.grad = parameter.grad, None
    tokens = NEXT.repeat(2, 1)
    loss = torch.tensor(0.0)
    for row, text in enumerate(text for text in TEXTS for _ in range(2)):
        loss = loss + alone(any_model, torch.cat([text, tokens[row]])).log_softmax(-1)[-2:, 3].sum()
    loss.backward()
    torch.testing.assert_close(found, parameter.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("texts", [[], [torch.tensor([], dtype=torch.long)]])
def test_an_empty_text_is_refused(hooked_model: Any, texts: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="a text without a token"):
        read_texts(hooked_model, texts)


def test_a_cache_is_used_where_there_is_one(hooked_model: Any, sae_bridge: Any) -> None:
    assert isinstance(read_texts(hooked_model, TEXTS), _HookedTransformerContinuation)
    assert isinstance(read_texts(sae_bridge, TEXTS), _BridgeContinuation)


def test_a_cache_with_recurrent_layers_is_not() -> None:
    class Layer:
        pass

    class Cache:
        layers = (Layer(),)

        def batch_select_indices(self, rows: Any) -> None: ...

    assert not _has_rows(Cache())
    assert not _has_rows(None)


def test_mixed_modes_come_back(hooked_model: Any) -> None:
    hooked_model.train()
    hooked_model.blocks[0].eval()
    with evaluating(hooked_model):
        assert not any(module.training for module in hooked_model.modules())
    assert hooked_model.blocks[1].training
    assert not hooked_model.blocks[0].training


def test_stop_tokens_are_the_models_and_those_it_generates_with(sae_bridge: Any) -> None:
    sae_bridge.cfg.eos_token_id = 0
    sae_bridge.original_model.generation_config.eos_token_id = [0, 5]
    assert stop_tokens(sae_bridge) == [0, 5]

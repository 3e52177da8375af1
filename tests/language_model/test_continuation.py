"""Reading on from padded texts gives what each text gives by itself, with and without a key-value cache, gradients too."""

from typing import Any

import pytest
import torch

from sae_lens_ext.language_model import read_texts

TEXTS = [torch.tensor([0, 5, 6, 7]), torch.tensor([0, 9]), torch.tensor([0, 11, 12])]
NEXT = torch.tensor([[3, 4], [5, 6], [7, 8]])


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

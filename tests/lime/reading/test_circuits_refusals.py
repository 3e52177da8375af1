"""What depthwise circuits cannot be read from is refused, with what to do."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_lens_ext.lime import LimeRouters, attach_lime
from sae_lens_ext.lime.reading import depthwise_circuits
from sae_lens_ext.lime.reading.circuits.buffers import read_buffers
from tests.conftest import TINY


def refused(
    match: str, model: Any, routers: Any, tokens: Any, kind: Any = ValueError, **settings: Any
) -> None:
    with pytest.raises(kind, match=match):
        depthwise_circuits(model, routers, tokens, **{"min_count": 1, "show_progress": False, **settings})


def test_routers_must_be_attached_to_this_model(
    hooked_model: Any, native_bridge: Any, tokens: torch.Tensor
) -> None:
    refused("attached to no model. Attach them with attach_lime", hooked_model, LimeRouters(2, 2), tokens)
    routers = attach_lime(native_bridge)
    refused(r"attached to another model \(TransformerBridge\)", hooked_model, routers, tokens)
    routers.detach()
    refused("attached to no model", native_bridge, routers, tokens)
    refused("was given str, which has no router weights", hooked_model, "routers", tokens)


def test_weights_must_be_numbers(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model)
    with torch.no_grad():
        routers.weights[1][0, 0, 0] = torch.inf
    refused(
        "weights of layer 1 have NaN or infinity in them. Did their training diverge",
        hooked_model,
        routers,
        tokens,
    )


def test_paused_routers_record_nothing(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model)
    with routers.paused():
        refused("paused", hooked_model, routers, tokens, RuntimeError)


def test_one_layer_has_nothing_to_read(tokens: torch.Tensor) -> None:
    cfg = HookedTransformerConfig(**{**TINY, "n_layers": 1}, normalization_type="LN", device="cpu")
    model = HookedTransformer(cfg)
    refused("model of one layer", model, attach_lime(model), tokens)


def test_texts_must_be_there_and_readable(hooked_model: Any) -> None:
    routers = attach_lime(hooked_model)
    refused("no texts. Give at least one document", hooked_model, routers, [])
    refused("The text 'texts' is one string", hooked_model, routers, "w1 w2")
    refused("texts as a mapping", hooked_model, routers, {"a": ["w1"]})
    refused("is too short", hooked_model, routers, ["w1 w2"], context_size=16)
    refused("The text 'texts' is too short", hooked_model, routers, [""], context_size=16)
    refused("context_size = 128 is more than the 16 tokens", hooked_model, routers, ["w1"])
    hooked_model.tokenizer = None
    refused("texts, but the model has no tokenizer", hooked_model, routers, ["w1 w2"])


def test_tokens_must_be_ids_of_the_vocabulary(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model)
    refused(r"shape \(4, 16\) and dtype torch.float32", hooked_model, routers, tokens.float())
    refused(r"shape \(16,\)", hooked_model, routers, tokens[0])
    refused(r"shape \(0, 16\)", hooked_model, routers, tokens[:0])
    refused(
        "from 2 to 32, but the model's vocabulary has 0 to 31",
        hooked_model,
        routers,
        tokens.clamp(max=31).index_fill(1, torch.tensor([3]), 32).clamp(min=2),
    )
    refused("from -1 to", hooked_model, routers, tokens.index_fill(1, torch.tensor([3]), -1))
    refused("more than the 16 tokens", hooked_model, routers, tokens.repeat(1, 2))
    refused("nothing but special tokens", hooked_model, routers, torch.zeros_like(tokens))


def test_some_token_must_occur_often_enough(hooked_model: Any) -> None:
    tokens = torch.arange(2, 18)[None]
    refused(
        "min_count = 2, but no token occurs more than 1 times",
        hooked_model,
        attach_lime(hooked_model),
        tokens,
        min_count=2,
    )


@pytest.mark.parametrize(
    "name",
    [
        "top_k",
        "tokens_per_circuit",
        "contexts_per_circuit",
        "min_count",
        "window",
        "max_tokens",
        "batch_size",
    ],
)
def test_numbers_must_be_positive(hooked_model: Any, tokens: torch.Tensor, name: str) -> None:
    refused(f"{name} = 0 is out of range", hooked_model, attach_lime(hooked_model), tokens, **{name: 0})


def test_options_must_be_known(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model)
    refused("tokens_by = 'size'. Give 'share' or 'norm'", hooked_model, routers, tokens, tokens_by="size")
    refused("own_layer = 'no'. Give True or False", hooked_model, routers, tokens, own_layer="no")


def test_activations_must_be_numbers(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model)
    with torch.no_grad():
        hooked_model.blocks[1].attn.b_V[0, 0] = torch.nan
    refused("The values of layer 1 have NaN or infinity", hooked_model, routers, tokens)


def test_layer_that_recorded_nothing_is_told_of(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = SimpleNamespace(recording=attach_lime(hooked_model).recording, n_layers=3)
    with pytest.raises(RuntimeError, match="recorded no keys of layer 2: their hooks never fired there"):
        next(
            read_buffers(
                hooked_model,
                routers,
                tokens,
                batch_size=2,
                autocast=False,
                show_progress=False,
                description="",
            )
        )


def test_autocast_reads_nearly_the_same(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model, initial="random")
    full, half = (
        next(
            read_buffers(
                hooked_model, routers, tokens, batch_size=4, autocast=on, show_progress=False, description=""
            )
        )
        for on in (False, True)
    )
    assert half.values.dtype == torch.float32
    assert not torch.equal(full.values, half.values)
    assert torch.allclose(full.values, half.values, atol=0.05)

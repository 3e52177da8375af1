from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import HookedSAETransformer
from transformer_lens import HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
)

from sae_lens_ext.steering.vectors import SteeringVectors
from tests.conftest import TINY
from tests.steering.vectors.conftest import D_MODEL, LLAMA_KINDS, N_LAYERS, random_vectors

SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
ALL_LAYERS = tuple(range(N_LAYERS))


@pytest.fixture
def biased(any_llama: Any) -> tuple[Any, dict[int, torch.Tensor]]:
    biases = random_vectors(*ALL_LAYERS)
    with torch.no_grad():
        for layer, bias in biases.items():
            any_llama.blocks[layer].mlp.b_out.copy_(bias)
    return any_llama, biases


def same(found: SteeringVectors, expected: dict[int, torch.Tensor]) -> bool:
    return found.layers == tuple(expected) and all(
        torch.equal(found[layer], expected[layer]) for layer in found
    )


def test_the_biases_of_every_kind_of_model_are_read(biased: Any) -> None:
    model, biases = biased
    found = SteeringVectors.from_model(model)
    assert same(found, biases)
    assert found.provenance["made_by"] == "SteeringVectors.from_model"
    assert "torch_version" in found.provenance
    with torch.no_grad():
        model.blocks[0].mlp.b_out.zero_()
    assert same(found, biases)


def test_the_biases_of_a_hugging_face_model_are_read(llama: Any) -> None:
    biases = random_vectors(*ALL_LAYERS)
    llama.load_state_dict(SteeringVectors(biases).to_bias_state_dict(), strict=False)
    assert same(SteeringVectors.from_model(llama), biases)


def test_half_precision_biases_are_read_as_float32(llama: Any) -> None:
    biases = random_vectors(*ALL_LAYERS)
    llama.load_state_dict(SteeringVectors(biases).to_bias_state_dict(), strict=False)
    found = SteeringVectors.from_model(llama.to(torch.bfloat16))
    assert found[0].dtype == torch.float32
    assert same(found, {layer: bias.bfloat16().float() for layer, bias in biases.items()})


def test_a_bridge_with_processed_weights_is_read(llama_folder: Path) -> None:
    model = LLAMA_KINDS["bridge"](llama_folder)
    biases = random_vectors(*ALL_LAYERS)
    with torch.no_grad():
        for layer, bias in biases.items():
            model.blocks[layer].mlp.b_out.copy_(bias)
    model.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    assert same(SteeringVectors.from_model(model), biases)


def test_the_hugging_face_model_that_a_bridge_wraps_is_read(llama_folder: Path) -> None:
    model = LLAMA_KINDS["bridge"](llama_folder)
    with torch.no_grad():
        model.blocks[1].mlp.b_out.fill_(2.0)
    found = SteeringVectors.from_model(model.original_model)
    assert found.layers == ALL_LAYERS
    assert found[1].tolist() == [2.0] * D_MODEL


def test_with_a_base_it_is_the_difference_across_kinds(biased: Any, llama: Any) -> None:
    model, biases = biased
    of_base = random_vectors(*ALL_LAYERS, seed=5)
    llama.load_state_dict(SteeringVectors(of_base).to_bias_state_dict(), strict=False)
    found = SteeringVectors.from_model(model, base=llama)
    assert same(found, {layer: biases[layer] - of_base[layer] for layer in biases})
    assert "base_model_name" in found.provenance


def test_a_base_without_biases_counts_as_zero(biased: Any) -> None:
    model, biases = biased
    config = LlamaConfig(**{**SMALL, "num_hidden_layers": N_LAYERS})
    assert same(SteeringVectors.from_model(model, base=LlamaForCausalLM(config)), biases)


def test_a_base_of_another_size_is_refused(biased: Any) -> None:
    with pytest.raises(ValueError, match="a model with 3 layers of width 16, and a base with 2 of width 16"):
        SteeringVectors.from_model(biased[0], base=LlamaForCausalLM(LlamaConfig(**SMALL)))


def test_steering_the_base_with_the_difference_is_the_model(hooked_model: Any, tokens: torch.Tensor) -> None:
    """Also in a model that has biases of its own before it is trained."""
    with torch.no_grad():
        for block in hooked_model.blocks:
            block.mlp.b_out.normal_()
    before = hooked_model.state_dict()
    base = HookedSAETransformer(hooked_model.cfg, tokenizer=hooked_model.tokenizer).eval()
    base.load_state_dict({name: value.clone() for name, value in before.items()})
    with torch.no_grad():
        for block in hooked_model.blocks:
            block.mlp.b_out.add_(torch.randn(16))
    difference = SteeringVectors.from_model(hooked_model, base=base)
    torch.testing.assert_close(
        base.run_with_hooks(tokens, fwd_hooks=difference.interventions(base).hooks(base)),
        hooked_model(tokens),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_model_without_biases_is_refused(gpt2_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no bias on the last projection .*gate_proj.*mlp_bias=True"):
        SteeringVectors.from_model(LlamaForCausalLM(LlamaConfig(**SMALL)))
    with pytest.raises(ValueError, match="c_proj.*such as GPT-2, as TransformerBridge"):
        SteeringVectors.from_model(GPT2LMHeadModel.from_pretrained(gpt2_folder))


def test_a_bridge_without_biases_is_refused(tokenizer: Any) -> None:
    gated = TransformerBridge.boot_native({**TINY, "gated_mlp": True}, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="no bias on the last projection"):
        SteeringVectors.from_model(gated)


def test_a_model_of_attention_alone_is_refused(tokenizer: Any) -> None:
    cfg = HookedTransformerConfig(**{**TINY, "attn_only": True, "device": "cpu"})
    with pytest.raises(ValueError, match="no bias on the last projection"):
        SteeringVectors.from_model(HookedSAETransformer(cfg, tokenizer=tokenizer))


def test_biases_of_zero_are_refused(any_llama: Any, biased: Any) -> None:
    model, biases = biased
    with pytest.raises(ValueError, match="are those of the base, so it holds no steering vectors"):
        SteeringVectors.from_model(model, base=model)
    with torch.no_grad():
        for layer in biases:
            model.blocks[layer].mlp.b_out.zero_()
    with pytest.raises(ValueError, match="are all zero, so it holds no steering vectors"):
        SteeringVectors.from_model(model)


def test_biases_with_nan_are_refused(biased: Any) -> None:
    with torch.no_grad():
        biased[0].blocks[1].mlp.b_out[3] = float("nan")
    with pytest.raises(ValueError, match="from_model was given the vector of layer 1 with NaN"):
        SteeringVectors.from_model(biased[0])


@pytest.mark.parametrize("value", [None, "gpt2", {0: torch.ones(2)}])
def test_what_is_no_model_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="as the model. Give a HookedTransformer"):
        SteeringVectors.from_model(value)


BEHIND_A_NORM = {
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**{k: v for k, v in SMALL.items() if k != "head_dim"})),
    "granite": lambda: GraniteForCausalLM(
        GraniteConfig(
            **{k: v for k, v in SMALL.items() if k != "head_dim"}, residual_multiplier=0.2, mlp_bias=True
        )
    ),
}
REASON = {
    "gemma2": "post_feedforward_layernorm",
    "olmo2": "post_feedforward_layernorm",
    "granite": "residual_multiplier",
}


@pytest.mark.parametrize("name", list(BEHIND_A_NORM))
def test_a_model_with_something_after_its_mlp_is_refused(name: str) -> None:
    model = BEHIND_A_NORM[name]()
    with pytest.raises(ValueError, match=f"{REASON[name]}' stands between the MLP and the residual stream"):
        SteeringVectors.from_model(model)


@pytest.mark.parametrize("name", list(BEHIND_A_NORM))
def test_so_is_its_bridge(name: str, tmp_path: Path, tokenizer: Any) -> None:
    BEHIND_A_NORM[name]().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path))
    with pytest.raises(ValueError, match="stands between the MLP and the residual stream"):
        SteeringVectors.from_model(bridge)


@pytest.mark.parametrize(
    "setting",
    [
        {"use_normalization_before_and_after": True, "normalization_type": "RMS"},
        {"original_architecture": "Olmo2ForCausalLM"},
    ],
)
def test_so_is_its_hooked_transformer(setting: dict[str, Any], tokenizer: Any) -> None:
    model = HookedSAETransformer(
        HookedTransformerConfig(**TINY, **setting, device="cpu"), tokenizer=tokenizer
    )
    with torch.no_grad():
        model.blocks[0].mlp.b_out.fill_(1.0)
    with pytest.raises(ValueError, match="a norm stands between the MLP and the residual stream"):
        SteeringVectors.from_model(model)


def test_a_factor_of_one_stands_in_nobodys_way() -> None:
    config = GraniteConfig(
        **{k: v for k, v in SMALL.items() if k != "head_dim"}, residual_multiplier=1.0, mlp_bias=True
    )
    model = GraniteForCausalLM(config)
    model.load_state_dict(SteeringVectors(random_vectors(0, 1)).to_bias_state_dict(), strict=False)
    assert same(SteeringVectors.from_model(model), random_vectors(0, 1))

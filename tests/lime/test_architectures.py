"""Routing on the architectures that docs/compatibility.md names, tiny and random: unchanged at the identity, learnt about, right under a cache."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sae_lens import HookedSAETransformer
from transformer_lens import HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from sae_lens_ext.lime import attach_lime
from tests.conftest import TINY, VOCABULARY

_LLAMA_LIKE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
_GPT2_LIKE = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
_GROUPED = {"num_key_value_heads": 1}
_HUGGING_FACE: dict[str, tuple[str, dict[str, Any]]] = {
    "Bloom": ("Bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "Falcon": ("Falcon", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}),
    "Gemma 2": ("Gemma2", _LLAMA_LIKE | _GROUPED | {"head_dim": 8}),
    "Gemma 3": ("Gemma3", _LLAMA_LIKE | _GROUPED | {"head_dim": 8}),
    "GPT-J": ("GPTJ", _GPT2_LIKE | {"rotary_dim": 4}),
    "GPT-NeoX": ("GPTNeoX", _LLAMA_LIKE),
    "Granite": ("Granite", _LLAMA_LIKE | {"residual_multiplier": 0.3}),
    "Mixtral": ("Mixtral", _LLAMA_LIKE | _GROUPED | {"num_local_experts": 2}),
    "OLMo 2": ("Olmo2", _LLAMA_LIKE),
    "OPT": (
        "OPT",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 32,
            "max_position_embeddings": 16,
            "word_embed_proj_dim": 16,
        },
    ),
    "Phi": ("Phi", _LLAMA_LIKE),
    "Phi-3": ("Phi3", _LLAMA_LIKE),
    "Qwen 2": ("Qwen2", _LLAMA_LIKE | _GROUPED),
    "Qwen 3": ("Qwen3", _LLAMA_LIKE | _GROUPED | {"head_dim": 8}),
}
_HOOKED: dict[str, dict[str, Any]] = {
    "parallel": {"normalization_type": "LN", "parallel_attn_mlp": True},
    "attention only": {"normalization_type": "LN", "attn_only": True},
    "no norm": {"normalization_type": None},
    "folded norm": {"normalization_type": "LNPre"},
    "norms before and after": {"normalization_type": "RMS", "use_normalization_before_and_after": True},
    "shortformer": {"normalization_type": "LN", "positional_embedding_type": "shortformer"},
}


def _boot(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Any:
    family, settings = _HUGGING_FACE[name]
    config = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(
        config(vocab_size=len(VOCABULARY), bos_token_id=0, eos_token_id=0, pad_token_id=0, **settings)
    )
    for p in model.parameters():
        if p.ndim > 1:  # of a size that keys matter
            p.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder)).eval()


def _carries(model: Any, tokens: torch.Tensor) -> None:
    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model(tokens, return_type="logits")

    before = logits()
    with attach_lime(model):
        torch.testing.assert_close(logits(), before, atol=1e-5, rtol=0)
    routers = attach_lime(model, initial="random")
    assert (logits() - before).abs().max() > 1e-3
    model(tokens, return_type="logits").float().pow(2).mean().backward()
    assert all(bool((p.grad != 0).any()) for p in routers.parameters())

    def generate(*, cache: bool) -> torch.Tensor:
        return model.generate(
            tokens[:, :4],
            max_new_tokens=6,
            do_sample=False,
            verbose=False,
            return_type="tokens",
            use_past_kv_cache=cache,
            stop_at_eos=False,
        )

    assert torch.equal(generate(cache=True), generate(cache=False))


@pytest.mark.parametrize("name", _HUGGING_FACE)
def test_hugging_face_architectures_carry_routing(
    name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, tokens: torch.Tensor
):
    _carries(_boot(name, tmp_path, tokenizer), tokens[:2, :10])


@pytest.mark.parametrize("name", _HOOKED)
def test_hooked_transformers_carry_routing(
    name: str, tokenizer: PreTrainedTokenizerFast, tokens: torch.Tensor
):
    cfg = HookedTransformerConfig(**TINY, **_HOOKED[name], device="cpu")
    _carries(HookedSAETransformer(cfg, tokenizer=tokenizer).eval(), tokens[:2, :10])


def test_mamba_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    config = transformers.MambaConfig(vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    with pytest.raises(ValueError, match="layer 0 has no attention with hook_k and hook_v"):
        attach_lime(TransformerBridge.boot_transformers(str(tmp_path)))

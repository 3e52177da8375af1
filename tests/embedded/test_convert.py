"""The conversion, on a tiny random Llama written as GGUF by the `gguf` package."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sae_lens_ext.embedded.convert import check_sha256, convert_gguf, hugging_face_name

gguf = pytest.importorskip("gguf")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["1 9", "i n", "Ġ in"]
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def pairs_side_by_side(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rotary pairs as GGUF orders them: rows 2i and 2i + 1 of a head are its rows i and i + d_head / 2."""
    half = len(weight) // heads // 2
    rows = [
        weight[2 * half * head + half * part + i]
        for head in range(heads)
        for i in range(half)
        for part in (0, 1)
    ]
    return np.stack(rows)


@pytest.fixture(scope="module")
def gguf_path(llama: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    config = llama.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(1e5)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages }}")
    for name, tensor in llama.model.named_parameters():
        weight = tensor.detach().numpy()
        parts = name.split(".")
        if parts[0] == "layers":
            part = GGUF_NAMES[".".join(parts[2:-1])]
            if part in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
                weight = pairs_side_by_side(weight, heads)
            writer.add_tensor(f"blk.{parts[1]}.{part}.weight", weight)
        else:
            writer.add_tensor(
                {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[0]] + ".weight", weight
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def folder(gguf_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert_gguf(gguf_path, folder)
    return folder


def test_convert_gguf_gives_back_the_weights_and_the_logits(llama: LlamaForCausalLM, folder: Path):
    converted = LlamaForCausalLM.from_pretrained(folder)
    for name, weight in llama.state_dict().items():
        assert torch.equal(converted.state_dict()[name], weight), name
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(converted(tokens).logits, llama(tokens).logits, rtol=0, atol=0)


def test_convert_gguf_writes_the_configuration(llama: LlamaForCausalLM, folder: Path):
    config = LlamaConfig.from_pretrained(folder)
    for name in (
        "hidden_size",
        "head_dim",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "vocab_size",
    ):
        assert getattr(config, name) == getattr(llama.config, name), name
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 2, 2)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_convert_gguf_writes_the_rotary_base_where_transformers_4_reads_it(folder: Path):
    """SAE-Dashboard wants transformers below 4.57, which takes 10,000 where this field is missing."""
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 1e5


def test_converted_tokenizer_splits_digits_and_keeps_special_tokens(folder: Path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("in 1919") == ["in", "Ġ", "1", "9", "1", "9"]
    assert tokenizer.tokenize(" in<|im_end|>") == ["Ġin", "<|im_end|>"]
    assert tokenizer.bos_token == "<|endoftext|>"
    text = "naïve Ünïcode 42 — in\n\ttabs  and  spaces ."
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_hugging_face_name_translates_layers_and_the_rest():
    assert hugging_face_name("blk.3.attn_q.weight") == "model.layers.3.self_attn.q_proj.weight"
    assert hugging_face_name("token_embd.weight") == "model.embed_tokens.weight"
    assert hugging_face_name("output_norm.weight") == "model.norm.weight"


def test_check_sha256_accepts_the_file_and_refuses_any_other(tmp_path: Path):
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    check_sha256(file, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(ValueError, match=r"damaged or from another version.*install-embedded") as caught:
        check_sha256(file, "0" * 64)
    assert str(file) in str(caught.value)

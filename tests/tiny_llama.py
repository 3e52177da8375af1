"""A random Llama of three layers, saved as Hugging Face does."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.conftest import VOCABULARY


def save_tiny_llama(folder: Path, tokenizer_folder: Path, **settings: Any) -> Path:
    """Save one: RMSNorm, rotary embeddings, gated MLP; settings are LlamaConfig's."""
    torch.manual_seed(0)
    cfg = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
        tie_word_embeddings=False,
        **settings,
    )
    LlamaForCausalLM(cfg).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder

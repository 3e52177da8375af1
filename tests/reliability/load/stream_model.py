"""What the readers of long streams read with: a random Llama of one layer, and as many random words as one likes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

N_WORDS = 254
VOCABULARY = ["<|endoftext|>", "<unk>", *(f"w{i}" for i in range(N_WORDS))]
CONTEXT = 128
D_MODEL = 64
HOOK = "blocks.0.hook_out"
_DOCUMENT = 1000
"""Words of a document."""


def save_model(folder: Path) -> Path:
    """Save the model with its tokenizer, as Hugging Face does."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    end = VOCABULARY[0]
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=end, eos_token=end, pad_token=end, unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    cfg = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=D_MODEL,
        intermediate_size=2 * D_MODEL,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(cfg).save_pretrained(folder)
    return folder


def load_model(folder: Path) -> Any:
    """Load it as TransformerLens does."""
    return TransformerBridge.boot_transformers(str(folder)).eval()


def save_dataset(folder: Path, n_tokens: int, seed: int = 0) -> Path:
    """Save contexts of random tokens, BOS first, from which `load_dataset` maps its rows into memory."""

    def rows() -> Any:
        generator = np.random.default_rng(seed)
        for _ in range(n_tokens // CONTEXT):
            yield {"input_ids": [0, *generator.integers(2, len(VOCABULARY), CONTEXT - 1).tolist()]}

    Dataset.from_generator(rows, cache_dir=str(folder / "cache")).save_to_disk(str(folder / "dataset"))  # pyright: ignore[reportAttributeAccessIssue]
    return folder / "dataset"


def load_dataset(folder: Path) -> Any:
    """Open it memory-mapped."""
    return load_from_disk(str(folder))


def documents(n_tokens: int, seed: int = 0) -> list[str]:
    """Random documents that fill so many tokens when they are packed, BOS before each."""
    generator = np.random.default_rng(seed)
    n = -(-n_tokens // (_DOCUMENT + 1)) + 1
    words = np.array(VOCABULARY[2:])
    return [" ".join(words[generator.integers(0, N_WORDS, _DOCUMENT)]) for _ in range(n)]


def random_topk(d_sae: int, seed: int, *, d_in: int = D_MODEL, k: int = 32) -> SAE[Any]:
    """Make a TopK SAE of random unit decoder rows, with its encoder their transpose."""
    cfg = TopKSAEConfig(
        d_in=d_in, d_sae=d_sae, k=k, metadata=SAEMetadata(hook_name=HOOK, model_name="random")
    )
    sae = TopKSAE(cfg)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
    return sae

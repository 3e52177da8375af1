"""Tiny models, SAEs and texts for calls, made without fixtures, so that scripts can use them."""

import atexit
import random
import shutil
import tempfile
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
from sae_lens import HookedSAETransformer, StandardSAE, StandardSAEConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from tests.conftest import TINY, VOCABULARY

FIRST, LAST = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
PROMPTS = ["w1 w2", "w3"]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    end = VOCABULARY[0]
    folder = tempfile.mkdtemp()  # TransformerLens reads it anew for each model
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=end, eos_token=end, pad_token=end, unk_token="<unk>"
    ).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def new_model(kind: str = "hooked") -> Any:
    """Make a random two-layer model, "hooked" or "bridge"; TransformerLens sets all global random states, which are put back."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # transformer-lens' own, of HookedTransformer
            return _new_model(kind)
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _new_model(kind: str) -> Any:
    if kind == "bridge":
        return TransformerBridge.boot_native(dict(TINY), tokenizer=tokenizer()).eval()
    cfg = HookedTransformerConfig(**TINY, normalization_type="LN", device="cpu")
    return HookedSAETransformer(cfg, tokenizer=tokenizer()).eval()


@cache
def model(kind: str = "hooked") -> Any:
    """Give one model for all calls, which must leave it as it is."""
    return new_model(kind)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def new_sae(d_in: int = 16, d_sae: int = 24, hook: str | None = LAST) -> StandardSAE:
    """Make an SAE of the last layer."""
    made = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=d_sae))
    with torch.no_grad():
        made.W_enc.copy_(drawn(d_in, d_sae))
        made.W_dec.copy_(drawn(d_sae, d_in, seed=1))
    made.cfg.metadata.hook_name = hook
    return made


def tokens() -> torch.Tensor:
    """Give token ids [4, 8]."""
    return torch.randint(2, len(VOCABULARY), (4, 8), generator=torch.Generator().manual_seed(1))

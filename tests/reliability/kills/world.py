"""The tiny models and texts that the work is done on, made once a process; what forks from it has them."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from sae_lens import HookedSAETransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from tests.architectures.bases import base_sae
from tests.conftest import TINY, VOCABULARY, tokens_of_the_data_set

HOOK = "blocks.0.hook_resid_post"
WORDS = VOCABULARY[2:]


def make() -> None:
    """Make everything there is, before anything forks."""
    for part in (hooked, bridge, dataset, documents, base):
        part()


@functools.cache
def place() -> Path:
    """A folder for what the work starts from; it goes when this process ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 32 words, read from a folder: TransformerLens asks where it came from."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), VOCABULARY[0])
    folder = place() / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", **special).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@functools.cache
def hooked() -> HookedSAETransformer:
    """A random two-layer `HookedTransformer`."""
    cfg = HookedTransformerConfig(**TINY, normalization_type="LN", device="cpu")
    return HookedSAETransformer(cfg, tokenizer=tokenizer()).eval()


@functools.cache
def bridge() -> Any:
    """A random two-layer `TransformerBridge`."""
    return TransformerBridge.boot_native(dict(TINY), tokenizer=tokenizer()).eval()


@functools.cache
def dataset() -> Dataset:
    """Rows of tokens to train SAEs on."""
    return tokens_of_the_data_set()


@functools.cache
def documents() -> list[str]:
    """Texts of 56 words."""
    return [" ".join(WORDS[(i * j) % 30] for j in range(5, 60)) + f" w{i % 30}" for i in range(900)]


@functools.cache
def base() -> Path:
    """The folder of an SAE that residuals are trained on."""
    sae = base_sae("jumprelu", d_in=TINY["d_model"])
    sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name = HOOK, "tiny"
    sae.save_model(place() / "base")
    return place() / "base"

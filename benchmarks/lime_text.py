"""Embedded texts as contexts of tokens for the LIMe benchmarks: train, validation and held-out documents, and a small tokenizer."""

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sae_lens_ext.embedded import embedded_texts
from sae_lens_ext.language_model import packed_contexts

BOS = "<|bos|>"
VALIDATION_ONE_IN = 3
"""Of the documents that are not trained on, one in three is for choosing learning rates and never measured on."""


@dataclass(frozen=True)
class Documents:
    """The documents of one embedded text; no document is in two parts."""

    train: list[str]
    """Nine in ten, trained on."""
    validation: list[str]
    """A third of the others: settings are chosen by these, and the curves of a training show them."""
    held_out: list[str]
    """The rest: everything is measured on these."""


@dataclass(frozen=True, eq=False)
class Contexts:
    """The same as token ids, packed and shuffled, BOS first and between documents."""

    train: torch.Tensor
    """[n, context]."""
    validation: torch.Tensor
    """[n, context]."""
    held_out: torch.Tensor
    """[n, context]."""


def documents(text: str) -> Documents:
    """Split an embedded text; each is there once, and the split depends on nothing but the documents."""
    train, others = (
        list(dict.fromkeys(embedded_texts(text, split=split).documents)) for split in ("train", "test")
    )
    random.Random(0).shuffle(others)
    n = len(others) // VALIDATION_ONE_IN
    return Documents(train, others[:n], others[n:])


def contexts(
    text: str, tokenizer: Any, *, context_size: int, train: int, validation: int, held_out: int
) -> Contexts:
    """Give up to so many tokens of each part of a text."""
    of = documents(text)
    return Contexts(
        **{
            name: packed_contexts(
                getattr(of, name),
                tokenizer,
                context_size=context_size,
                max_tokens=most,
                seed=0,
                what=f"The {name} part of {text!r}",
            )
            for name, most in (("train", train), ("validation", validation), ("held_out", held_out))
        }
    )


def small_tokenizer(text: str, size: int, folder: Path) -> PreTrainedTokenizerFast:
    """Give a byte-level BPE of `size` tokens learnt from the training documents, BOS first; made once and kept in the folder."""
    if not (folder / "tokenizer.json").is_file():
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[BOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(documents(text).train, trainer)
        partial = folder.with_name(f"{folder.name}-{os.getpid()}")
        PreTrainedTokenizerFast(
            tokenizer_object=bpe, bos_token=BOS, eos_token=BOS, pad_token=BOS
        ).save_pretrained(partial)
        if folder.exists():  # another process has been quicker, with the same
            shutil.rmtree(partial)
        else:
            partial.rename(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)

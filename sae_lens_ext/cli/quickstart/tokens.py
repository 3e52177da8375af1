"""From documents to the fixed contexts that SAELens reads, training and held-out documents apart."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from sae_lens import PretokenizeRunnerConfig
from sae_lens.pretokenize_runner import pretokenize_dataset

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.embedded.texts import in_test_split


def split_documents(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split documents into training and held-out ones, as the embedded texts are split: by a hash of the text."""
    training, held_out = [], []
    for document in documents:
        (held_out if in_test_split(document) else training).append(document)
    return training, held_out


def contexts(
    documents: Sequence[str], tokenizer: Any, context_size: int, seed: int, at_least: int
) -> Dataset:
    """Tokenise documents and pack them into contexts, BOS first and between documents.

    Args:
        documents: The texts.
        tokenizer: The model's tokenizer; it must have a BOS token.
        context_size: Tokens per context.
        seed: Order of the contexts.
        at_least: Number of contexts without which there is no point in going on.

    Returns:
        A data set with the column "input_ids", [context_size] each.

    Raises:
        CommandError: The documents fill fewer than `at_least` contexts.
    """
    cfg = PretokenizeRunnerConfig(
        context_size=context_size,
        begin_batch_token="bos",
        begin_sequence_token=None,
        sequence_separator_token="bos",
        num_proc=1,
        shuffle=True,
        seed=seed,
    )
    tokenizer.model_max_length = 10**9  # documents are packed, not truncated: no warning about their length
    dataset = Dataset.from_dict({"text": list(documents)})
    try:
        packed = pretokenize_dataset(dataset, tokenizer, cfg)
    except ValueError:  # what SAELens meets when not one context is filled: a data set without its column
        packed = Dataset.from_dict({"input_ids": []})
    if len(packed) < at_least:
        raise CommandError(
            f"The text is too short: after one document in ten is held out, one side has {len(documents)} documents that "
            f"fill {len(packed)} contexts of {context_size} tokens, and {at_least} are needed. Give more text."
        )
    return packed

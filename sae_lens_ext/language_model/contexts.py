"""From documents to fixed contexts of tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from sae_lens import PretokenizeRunnerConfig
from sae_lens.pretokenize_runner import pretokenize_dataset

from sae_lens_ext.number_checks import require_seed


def contexts(
    documents: Sequence[str],
    tokenizer: Any,
    *,
    context_size: int,
    seed: int = 0,
    at_least: int = 1,
    what: str = "The text",
) -> Dataset:
    """Tokenise documents and pack them into contexts, BOS first and between documents.

    Args:
        documents: The texts.
        tokenizer: The model's tokenizer; it must have a BOS token.
        context_size: Tokens per context.
        seed: Order of the contexts.
        at_least: Number of contexts without which there is no point in going on.
        what: What the documents are, for the message.

    Returns:
        A data set with the column "input_ids", [context_size] each, as SAELens' runners and stores read it.

    Raises:
        ValueError: The documents fill fewer than `at_least` contexts, or these have no room for text.
    """
    require_seed("The order of contexts", seed)
    if context_size < 2:
        raise ValueError(
            f"context_size = {context_size} leaves no room for text after BOS. Give at least 2 tokens, such as 128."
        )
    if getattr(tokenizer, "bos_token_id", None) is None:
        raise ValueError(
            "The tokenizer has no BOS token, with which every context begins. Set tokenizer.bos_token to the token that "
            "the model was trained to begin with."
        )
    strange = next((document for document in documents if not isinstance(document, str)), None)  # pyright: ignore[reportUnnecessaryIsInstance]
    if strange is not None:
        raise ValueError(
            f"{what} has a document of type {type(strange).__name__}, {strange!r:.50}. Give documents as strings."
        )
    cfg = PretokenizeRunnerConfig(
        context_size=context_size,
        begin_batch_token="bos",
        begin_sequence_token=None,
        sequence_separator_token="bos",
        num_proc=1,
        shuffle=True,
        seed=seed,
    )
    # Documents are packed, not truncated, so that their length is nothing to warn of.
    longest, tokenizer.model_max_length = tokenizer.model_max_length, 10**9
    try:
        packed = pretokenize_dataset(Dataset.from_dict({"text": list(documents)}), tokenizer, cfg)
    except ValueError:  # what SAELens meets when not one context is filled: a data set without its column
        packed = Dataset.from_dict({"input_ids": []})
    finally:
        tokenizer.model_max_length = longest
    if len(packed) < at_least:
        raise ValueError(
            f"{what} is too short: its {len(documents)} documents fill {len(packed)} contexts of {context_size} tokens, "
            f"and {at_least} are needed. Give more text, or shorter contexts."
        )
    return packed


def packed_contexts(
    documents: Sequence[str], tokenizer: Any, *, context_size: int, max_tokens: int, seed: int, what: str
) -> torch.Tensor:
    """Give the first contexts of documents, packed and shuffled as `contexts` does.

    Args:
        documents: The texts.
        tokenizer: The model's tokenizer; it must have a BOS token.
        context_size: Tokens per context.
        max_tokens: No more tokens than these, in whole contexts, but at least one context.
        seed: Order of the contexts, which decides which they are.
        what: What the documents are, for the message.

    Returns:
        Token ids [n, context_size].

    Raises:
        ValueError: The documents do not fill one context.
    """
    packed = contexts(documents, tokenizer, context_size=context_size, seed=seed, what=what)
    n = min(len(packed), max(1, max_tokens // context_size))
    return torch.as_tensor(packed.with_format("numpy")[:n]["input_ids"]).long()


def require_context_fits(model: Any, context_size: int) -> None:
    """Raise ValueError if contexts are longer than the model reads.

    Args:
        model: A language model; one that does not say how much it reads is not asked.
        context_size: Tokens per context.
    """
    longest = getattr(getattr(model, "cfg", None), "n_ctx", None)
    if isinstance(longest, int) and context_size > longest:
        raise ValueError(
            f"context_size = {context_size} is more than the {longest} tokens that this model reads. Give at most {longest}."
        )


def mix_datasets(domain: Dataset, general: Dataset, *, general_fraction: float, seed: int = 0) -> Dataset:
    """Mix rows of a general text into those of a domain, and shuffle.

    Every row of the domain is in the mixture once; rows of the general text are drawn without replacement, and again
    from the start if it is too short.

    Args:
        domain: Rows of the domain: contexts of tokens, or documents.
        general: Rows of the same kind. With documents the fraction is of documents, not of tokens.
        general_fraction: Share of the general text in the mixture, from 0 up to but not including 1.
        seed: Which rows of the general text, and the order of all.

    Returns:
        The mixture.

    Raises:
        ValueError: The fraction is out of range, or the data sets have other columns or no rows.
    """
    if not 0 <= general_fraction < 1:
        raise ValueError(
            f"general_fraction = {general_fraction!r} is out of range. Give the share of the general text in the mixture, "
            "from 0 up to but not including 1, such as 0.1."
        )
    if general_fraction == 0:
        return domain.shuffle(seed=seed)
    if domain.column_names != general.column_names or len(domain) == 0 or len(general) == 0:
        raise ValueError(
            f"A data set with {len(domain)} rows and the columns {domain.column_names} cannot be mixed with one of "
            f"{len(general)} rows and {general.column_names}. Give two that have rows and the same columns."
        )
    n = round(len(domain) * general_fraction / (1 - general_fraction))
    order = general.shuffle(seed=seed)
    drawn = [order] * (n // len(order)) + [order.select(range(n % len(order)))]
    return concatenate_datasets([domain, *drawn]).shuffle(seed=seed)

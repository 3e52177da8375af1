"""Texts as a user gives them, documents or token ids, as the token ids to read."""

from typing import Any

import torch

from sae_lens_ext.analysis.texts import pack_texts, require_documents
from sae_lens_ext.language_model import require_context_fits

_NAME = "texts"


def given_tokens(
    caller: str, model: Any, given: Any, *, context_size: int, max_tokens: int, seed: int
) -> torch.Tensor:
    """Give the token ids to read, [n, pos], on the CPU.

    Args:
        caller: Function the texts were given to, for messages.
        model: The model.
        given: Documents, or token ids [n, pos].
        context_size: Tokens per context, of documents.
        max_tokens: No more tokens than these, in whole sequences, but at least one sequence.
        seed: Which contexts of documents.

    Raises:
        ValueError: There are no texts, or they are too short or given without a tokenizer; the tokens are no int64 [n, pos] of the vocabulary, or longer than
            the model reads.
    """
    if not isinstance(given, torch.Tensor):
        documents: Any = given
        if not hasattr(documents, "__len__") or not hasattr(documents, "__iter__"):
            raise ValueError(
                f"{caller} was given {type(given).__name__} as texts. Give a list of documents, or token ids [n, pos] as a tensor."
            )
        require_documents(caller, given)
        if len(given) == 0:
            raise ValueError(f"{caller} was given no texts. Give at least one document.")
        if getattr(model, "tokenizer", None) is None:
            raise ValueError(
                f"{caller} was given texts, but the model has no tokenizer. Set model.tokenizer, or give token ids [n, pos]."
            )
        return pack_texts(model, {_NAME: given}, context_size=context_size, max_tokens=max_tokens, seed=seed)[
            _NAME
        ]
    if given.ndim != 2 or given.dtype != torch.long or given.numel() == 0:
        raise ValueError(
            f"{caller} was given tokens of shape {tuple(given.shape)} and dtype {given.dtype}. Give token ids [n, pos] as int64, at least one."
        )
    tokens = given[: max(1, max_tokens // given.shape[1])].cpu()
    size = model.cfg.d_vocab
    if int(tokens.min()) < 0 or int(tokens.max()) >= size:
        raise ValueError(
            f"{caller} was given token ids from {int(tokens.min())} to {int(tokens.max())}, but the model's vocabulary has 0 to {size - 1}. Give ids of its own "
            "tokenizer."
        )
    require_context_fits(model, tokens.shape[1])
    return tokens

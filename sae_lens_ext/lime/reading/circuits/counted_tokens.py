"""The tokens that a reading of circuits is made on: which count, how often each occurs."""

from typing import Any

import torch

from sae_lens_ext.analysis.texts import special_tokens


def which_count(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Tell which tokens count, bool, of the same shape: all but the tokenizer's special ones; all without a tokenizer."""
    if getattr(model, "tokenizer", None) is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    return ~torch.isin(tokens, special_tokens(model))


def counted_vocabulary(
    caller: str, tokens: torch.Tensor, min_count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the ids of the tokens that occur, ascending, and how often each does, [n] both.

    Args:
        caller: As for `given_tokens`.
        tokens: Ids of the tokens that count.
        min_count: How often one must occur at least.

    Raises:
        ValueError: None does.
    """
    vocabulary, counts = tokens.unique(return_counts=True)
    if len(counts) == 0:
        raise ValueError(
            f"{caller} was given nothing but special tokens, which do not count. Give documents with words in them."
        )
    if int(counts.max()) < min_count:
        raise ValueError(
            f"{caller} was given min_count = {min_count}, but no token occurs more than {int(counts.max())} times in what is read. Give more text (or a larger "
            f"max_tokens), or a smaller min_count."
        )
    return vocabulary, counts

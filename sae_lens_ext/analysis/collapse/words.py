"""Occurrences of a few words in contexts: equally many of each, in the order of the contexts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_ext.number_checks import whole_number


@dataclass(frozen=True, eq=False)
class Occurrences:
    """Where words stand, sorted by context; empty if no words are looked for."""

    words: tuple[str, ...]
    """The words, as text; a class is the place of a word here."""
    token_ids: tuple[int, ...]
    """Their tokens."""
    per_word: int
    """How many there are of each."""
    rows: torch.Tensor
    """Context of each, [n], ascending."""
    positions: torch.Tensor
    """Position in it, [n]: that of the word's own token."""
    labels: torch.Tensor
    """Which word, [n]."""


NO_WORDS = Occurrences((), (), 0, *(torch.empty(0, dtype=torch.long) for _ in range(3)))


def find_occurrences(
    caller: str, model: Any, contexts: torch.Tensor, words: Any, *, per_word: int, n_folds: int
) -> Occurrences:
    """Find the first occurrences of each word, as many of each as there are of the rarest, up to `per_word`.

    Args:
        caller: Function the words were given to, for messages.
        model: The model, with a tokenizer if words are given as text.
        contexts: Token ids [n, pos].
        words: Words that are one token each, with the space they begin with, or ids of tokens; at least two. None for none.
        per_word: How many of each, at most.
        n_folds: How many of each there must be at least.

    Raises:
        ValueError: Words are no single tokens, or given as text to a model without a tokenizer; there are fewer than two, or one twice; there are too few
            occurrences.
    """
    if words is None:
        return NO_WORDS
    if per_word < n_folds:
        raise ValueError(
            f"{caller} was given per_word = {per_word} and n_folds = {n_folds}, but each fold needs an occurrence of each word. Give a per_word of at least {n_folds}."
        )
    names, ids = _tokens_of(caller, model, words)
    found = [(contexts == token).nonzero() for token in ids]
    n = min(per_word, *map(len, found))
    if n < n_folds:
        counted = ", ".join(f"{len(where)} of {name!r}" for name, where in zip(names, found, strict=True))
        raise ValueError(
            f"{caller} found {counted} in {contexts.numel():,} tokens and takes {n} of each (per_word = {per_word}), but separability with n_folds = {n_folds} needs "
            f"{n_folds} of each. Give more text, other words, or words=None to leave separability out."
        )
    where = torch.cat([one[:n] for one in found])
    labels = torch.arange(len(ids)).repeat_interleave(n)
    order = where[:, 0].argsort(stable=True)
    return Occurrences(names, ids, n, where[order, 0], where[order, 1], labels[order])


def _tokens_of(caller: str, model: Any, words: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Give the words as text, and their tokens."""
    if isinstance(words, str) or not isinstance(words, Sequence) or len(words) < 2:
        raise ValueError(
            f"{caller} was given words = {words!r}. Give at least two, such as (' is', ' was'), or None to leave separability out."
        )
    tokenizer = getattr(model, "tokenizer", None)
    names: list[str] = []
    ids: list[int] = []
    for word in words:
        token = whole_number(word)
        if isinstance(word, str):
            if tokenizer is None:
                raise ValueError(
                    f"{caller} was given words as text, but the model has no tokenizer. Set model.tokenizer, give ids of tokens as words, or words=None to "
                    "leave separability out."
                )
            pieces: list[int] = tokenizer.encode(word, add_special_tokens=False)
            if len(pieces) != 1 or pieces[0] == tokenizer.unk_token_id:
                raise ValueError(
                    f"{caller} was given the word {word!r}, which the model's tokenizer cuts into {len(pieces)} tokens"
                    f"{' or does not know' if len(pieces) == 1 else ''}. Give words that are one token, with the space they begin with (or without it, if the tokenizer adds one), or words=None to leave "
                    "separability out."
                )
            token, name = pieces[0], word
        elif token is not None and 0 <= token < model.cfg.d_vocab:
            name = f"<{token}>" if tokenizer is None else tokenizer.decode([token])
        else:
            raise ValueError(
                f"{caller} was given the word {word!r}. Give text that is one token, or the id of a token, from 0 to {model.cfg.d_vocab - 1}."
            )
        names.append(name)
        ids.append(token)
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"{caller} was given words = {words!r}, in which a token is there twice. Give each once."
        )
    return tuple(names), tuple(ids)

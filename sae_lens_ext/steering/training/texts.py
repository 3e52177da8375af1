"""Prompts and completions between text and token ids."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from sae_lens_ext.language_model import stop_tokens
from sae_lens_ext.number_checks import whole_number
from sae_lens_ext.steering.training.rollout import Rollout


def require_language_model(caller: str, model: Any) -> None:
    """Raise ValueError unless a model has a tokenizer and gives logits."""
    if getattr(model, "tokenizer", None) is None:
        raise ValueError(
            f"{caller} was given a model without a tokenizer, so that it cannot write. Set model.tokenizer."
        )
    if getattr(model, "unembed", None) is None:
        raise ValueError(
            f"{caller} was given a {type(model).__name__} without an unembedding, which gives no probabilities of tokens to sample from. Give a causal "
            "language model, such as a HookedTransformer or a TransformerBridge of one."
        )


def prompt_tokens(
    caller: str, model: Any, prompts: Any, *, prepend_bos: bool, max_new_tokens: int, prefix: Any = None
) -> list[torch.Tensor]:
    """Give the token ids of prompts, [n] each.

    Args:
        caller: For messages.
        model: A model with a tokenizer.
        prompts: Texts.
        prepend_bos: Whether BOS comes first.
        max_new_tokens: How many tokens must have room after each.
        prefix: A text or token ids put behind every prompt; None for nothing.

    Raises:
        ValueError: There is no prompt, one is no text, has no tokens, or is longer than the model reads.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not prompts:
        raise ValueError(
            f"{caller} was given prompts = {prompts!r:.100}. Give a list of texts, at least one."
        )
    behind = _prefix_tokens(caller, model, prefix)
    longest = getattr(model.cfg, "n_ctx", None)
    found: list[torch.Tensor] = []
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(
                f"{caller} was given prompt {i} as {type(prompt).__name__}, {prompt!r:.50}. Give texts."
            )
        ids = model.to_tokens(prompt, prepend_bos=prepend_bos, truncate=False)[0].cpu()
        tokens = torch.cat([ids, behind])
        if not len(tokens):
            raise ValueError(
                f"{caller} was given prompt {i} = {prompt!r}, which has no tokens. Give a text, or prepend_bos=True."
            )
        if isinstance(longest, int) and len(tokens) + max_new_tokens > longest:
            raise ValueError(
                f"{caller} was given prompt {i}, {prompt!r:.80}, of {len(tokens)} tokens. With max_new_tokens = {max_new_tokens} that is more than the "
                f"{longest} tokens that this model reads. Give shorter prompts, or fewer new tokens."
            )
        found.append(tokens)
    return found


def _prefix_tokens(caller: str, model: Any, prefix: Any) -> torch.Tensor:
    if prefix is None:
        return torch.zeros(0, dtype=torch.long)
    if isinstance(prefix, str):
        return model.to_tokens(prefix, prepend_bos=False, truncate=False)[0].cpu()
    whole: list[Any] = (
        [prefix] if isinstance(prefix, int) else list(prefix) if isinstance(prefix, Sequence) else [None]
    )
    ids = [whole_number(number) for number in whole]
    n_tokens = getattr(model.cfg, "d_vocab", None)
    if any(token is None or token < 0 or (n_tokens and token >= n_tokens) for token in ids):
        raise ValueError(
            f"{caller} was given prefix = {prefix!r:.100}. Give a text, or token ids of this model's vocabulary."
        )
    return torch.tensor(ids, dtype=torch.long)


def require_stop_tokens(caller: str, model: Any, given: Any) -> tuple[int, ...]:
    """Give the ids of tokens that end a text: those given, else the model's own.

    Raises:
        ValueError: They are no token ids.
    """
    if given is None:
        return tuple(stop_tokens(model))
    several = given if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) else [given]
    if isinstance(given, torch.Tensor) and given.ndim == 0:
        several = [given]
    ids = [whole_number(number) for number in several]
    if any(token is None or token < 0 for token in ids):
        raise ValueError(
            f"{caller} was given stop_tokens = {given!r}. Give token ids, or None for the model's own."
        )
    return tuple(token for token in ids if token is not None)


def completion_text(model: Any, rollout: Rollout, prefix: str = "") -> str:
    """Give the text of a completion, without the token that ended it, as rewards read it."""
    return prefix + model.tokenizer.decode(rollout.text_tokens.tolist())


def chunks(rollouts: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Give things in their order, so many at a time."""
    for start in range(0, len(rollouts), size):
        yield rollouts[start : start + size]

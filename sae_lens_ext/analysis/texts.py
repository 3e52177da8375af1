"""What the analyses that run a model on texts have in common: checks, contexts, which tokens count."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sae_lens.util import get_special_token_ids

from sae_lens_ext.language_model import packed_contexts, require_context_fits


def require_texts(caller: str, texts: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError unless `texts` is a mapping with an entry, from names to sequences of documents.

    Args:
        caller: Function the texts were given to, for the message.
        texts: What the user gave.
    """
    require_mapping(caller, "texts", texts, '{"code": [...]}')
    for name, documents in texts.items():
        if isinstance(documents, str):
            raise ValueError(
                f"The text {name!r} is one string. Give a sequence of documents, such as [{documents[:20]!r}]."
            )


def require_documents(caller: str, texts: Any) -> None:
    """Raise ValueError unless `texts` is a sequence of documents."""
    if isinstance(texts, Mapping):
        raise ValueError(
            f"{caller} was given texts as a mapping. Give a sequence of documents, such as one of its values."
        )
    require_texts(caller, {"texts": texts})


def require_mapping(caller: str, name: str, value: Any, example: str) -> None:
    """Raise ValueError unless `value` is a mapping with an entry.

    Args:
        caller: Function the value was given to, for the message.
        name: Its name there.
        value: What the user gave.
        example: What could have been given, for the message.
    """
    if not isinstance(value, Mapping) or not value:
        raise ValueError(
            f"{caller} was given {name} of type {type(value).__name__}"
            f"{' without an entry' if isinstance(value, Mapping) else ''}. Give a mapping by name, such as {example}."
        )


def require_detached(model: Any) -> None:
    """Raise ValueError if SAEs are attached to the model, so that it is not the model alone that runs."""
    if getattr(model, "acts_to_saes", None):
        raise ValueError(
            f"The model has SAEs attached at {', '.join(map(repr, model.acts_to_saes))}, so that its own activations and "
            "cross-entropy cannot be read. Call model.reset_saes() first."
        )


def pack_texts(
    model: Any, texts: Mapping[str, Sequence[str]], *, context_size: int, max_tokens: int, seed: int
) -> dict[str, torch.Tensor]:
    """Pack the documents of each text into contexts for a model.

    Args:
        model: The model, with a tokenizer.
        texts: Documents by name.
        context_size: Tokens per context.
        max_tokens: Tokens read of each text, at most.
        seed: Which contexts of a text, and in which order.

    Returns:
        Token ids [n, context_size] by text.

    Raises:
        ValueError: A text is too short, or the model reads fewer tokens.
    """
    require_context_fits(model, context_size)
    return {
        name: packed_contexts(
            documents,
            model.tokenizer,
            context_size=context_size,
            max_tokens=max_tokens,
            seed=seed,
            what=f"The text {name!r}",
        )
        for name, documents in texts.items()
    }


def special_tokens(model: Any) -> torch.Tensor:
    """Give the ids of the tokenizer's special tokens, which no analysis counts, [n]."""
    return torch.tensor(sorted(get_special_token_ids(model.tokenizer)), dtype=torch.long)

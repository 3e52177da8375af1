"""What the analyses take as texts: held-out documents by name."""

from collections.abc import Mapping, Sequence
from typing import Any


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

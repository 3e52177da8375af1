"""What a completion is scored on: by its words, or by any function from a text to a number from 0 to 1."""

import functools
import math
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from numbers import Real
from typing import Any

Behaviour = Callable[[str], float]
"""Gives how much of a behaviour a completion shows, from 0 to 1."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class _ShareOfWords:
    words: frozenset[str]

    def __call__(self, completion: str) -> float:
        found = _words_of(completion)
        return sum(word in self.words for word in found) / len(found) if found else 0.0

    def __repr__(self) -> str:
        return f"share_of_words({sorted(self.words)})"


@dataclass(frozen=True)
class _PresenceOfWords:
    words: frozenset[str]

    def __call__(self, completion: str) -> float:
        return float(any(word in self.words for word in _words_of(completion)))

    def __repr__(self) -> str:
        return f"presence_of_words({sorted(self.words)})"


def share_of_words(words: Sequence[str]) -> Behaviour:
    """Make the behaviour "the share of a completion's words that are in a list"; 0 for a completion without words.

    Args:
        words: The list. Case does not matter; only whole words count, so that "sea" is not in "season". Give plurals and
            other forms as words of their own.

    Returns:
        A function from a completion to a number from 0 to 1.

    Raises:
        ValueError: The list is empty or one string, or holds something that is not one word.
    """
    return _ShareOfWords(_word_list("share_of_words", words))


def presence_of_words(words: Sequence[str]) -> Behaviour:
    """Make the behaviour "at least one word of a list is there": 1 or 0.

    Args:
        words: As for `share_of_words`.

    Raises:
        ValueError: As for `share_of_words`.
    """
    return _PresenceOfWords(_word_list("presence_of_words", words))


def score_completion(behaviour: Behaviour, completion: str) -> float:
    """Score a completion.

    Raises:
        ValueError: The behaviour gave something else than a number from 0 to 1.
    """
    value: Any = behaviour(completion)
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, Real) or math.isnan(float(value)) or not 0 <= float(value) <= 1:
        raise ValueError(
            f"The behaviour gave {value!r} for the completion {completion[:60]!r}. Give a function whose values are numbers from 0 to 1, such "
            'as share_of_words(["sea", "ship"]).'
        )
    return float(value)


def behaviour_name(behaviour: Behaviour) -> str:
    """Name a behaviour, equally in every run: a function by its module and name (a lambda by its line as well), anything else by its repr.

    An object without a repr of its own is named by its class.
    """
    named: Any = behaviour
    if isinstance(named, functools.partial):
        inner: Any = named
        given = [*map(repr, inner.args), *(f"{name}={value!r}" for name, value in inner.keywords.items())]
        return f"partial({', '.join([behaviour_name(inner.func), *given])})"
    code = getattr(named, "__code__", None)
    if not hasattr(named, "__qualname__"):
        if type(named).__repr__ is not object.__repr__:
            return repr(named)
        named = type(named)
    line = f" (line {code.co_firstlineno})" if code is not None and code.co_name == "<lambda>" else ""
    return f"{named.__module__}.{named.__qualname__}{line}"


def _words_of(text: str) -> list[str]:
    return [word.replace("’", "'") for word in _WORD.findall(text.casefold())]


def _word_list(caller: str, words: Any) -> frozenset[str]:
    listed = isinstance(words, (Sequence, Set)) and not isinstance(words, (str, bytes))
    if not listed or not words:
        raise ValueError(f'{caller} was given {words!r}. Give a list of words, such as ["sea", "ship"].')
    found: set[str] = set()
    for word in words:
        text = word if isinstance(word, str) else ""
        parts = _words_of(text)
        if len(parts) != 1 or not _WORD.fullmatch(text.strip().casefold()):
            raise ValueError(
                f"{caller} was given {word!r}, which is not one word, in its list. Give single words; score phrases by a function of your own."
            )
        found.add(parts[0])
    return frozenset(found)

"""The reward "a regular expression matches"."""

import re
from dataclasses import dataclass, field
from typing import Any

from sae_lens_ext.number_checks import require_bool, whole_number

_FLAGS = int(re.A | re.I | re.L | re.M | re.S | re.U | re.X)
"""All of `re`'s that change what matches; what it has besides prints, or is deprecated."""


@dataclass(frozen=True)
class MatchesPattern:
    r"""1.0 if a regular expression matches in a completion, else 0.0. The prompt is not read.

    Patterns with nested repetition, such as `(a+)+b`, can take very long on some texts.

    Example:
        ```python
        reward = MatchesPattern(r"\s*[A-Z][a-z]+\.", full=True)
        reward("Name a town.", " Paris.")  # 1.0
        ```

    Args:
        pattern: The regular expression, in the syntax of `re`; or a compiled one, whose flags hold.
        full: Whether all of the completion must match, instead of some place in it.
        flags: Of `re`, such as `re.IGNORECASE | re.DOTALL`; in a text they can be written as `(?is)` at its beginning as well.

    Raises:
        ValueError: The pattern is no regular expression for text, or the flags are none of `re`'s.
    """

    pattern: Any
    """The regular expression, a text."""
    full: bool = False
    """Whether all of a completion must match."""
    flags: int = 0
    """Flags of `re`."""
    _compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_bool(type(self).__name__, "full", self.full)
        pattern, own = self.pattern, whole_number(self.flags)
        if own is None or own & ~_FLAGS:
            raise ValueError(
                f"MatchesPattern was given flags = {self.flags!r:.80}, with which Python cannot compile a pattern. Give flags of re, such as re.IGNORECASE, or 0."
            )
        flags = own
        if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
            pattern, flags = pattern.pattern, pattern.flags | own
        if not isinstance(pattern, str):
            raise ValueError(
                f"MatchesPattern was given pattern = {self.pattern!r:.80}. Give a regular expression as a text, such as r'\\d+ apples'."
            )
        try:
            compiled = re.compile(pattern, flags)
        except (re.error, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise ValueError(
                f"MatchesPattern was given the pattern {pattern!r:.200} with flags {flags!r}, which Python cannot compile: {error}. Mend it; a special "
                "character that is meant as itself takes a backslash before it."
            ) from error
        for name, value in {"pattern": pattern, "flags": int(flags), "_compiled": compiled}.items():
            object.__setattr__(self, name, value)

    def __call__(self, prompt: str, completion: str) -> float:  # noqa: ARG002
        """Score a completion: 1.0 or 0.0."""
        match = self._compiled.fullmatch if self.full else self._compiled.search
        return float(match(completion) is not None)

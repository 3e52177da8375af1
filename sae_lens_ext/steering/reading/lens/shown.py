"""Tokens as a reader sees them: spaces and line ends made visible, long ones cut."""

import unicodedata

LONGEST = 16
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_MARKS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


def shown_token(text: str, longest: int = LONGEST) -> str:
    """Give a token with "·" for a space, "↵" for a line end and "⇥" for a tab, control characters as their code, cut with "…".

    Args:
        text: The token.
        longest: Characters, at most.
    """
    if not text:
        return "∅"
    marked = "".join(_MARKS.get(one) or _printable(one) for one in text)
    return marked if len(marked) <= longest else marked[: longest - 1] + "…"


def _printable(one: str) -> str:
    # Some of these, such as those that turn the direction of writing, would act on the text around them.
    return f"⟨{ord(one):x}⟩" if unicodedata.category(one) in _UNSEEN else one

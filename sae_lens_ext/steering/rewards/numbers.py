"""Numbers in a text, read exactly: as decimal fractions, so that 1.0 is 1 and 0.1 is 0.1."""

import math
import re
from decimal import Decimal
from typing import Any

MINUS = "\N{MINUS SIGN}"

# A sign counts where no operand stands before it, so that "5-3" holds 5 and 3. Digits in threes with commas between are one number.
_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w)\]}.%])[-+])?
    [$€£]?
    (?P<size>
        (?: (?<![0-9])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]) | [0-9]+ ) (?:\.[0-9]+)?
        | (?<![\w.])\.[0-9]+
    )
    (?P<power>[eE][-+]?[0-9]{1,3}(?![0-9]))?
    """,
    re.VERBOSE,
)


def last_number(text: str) -> Decimal | None:
    r"""Give the last number that is written in a text, exactly; None if there is none.

    - Signs: "-3" and "−3" (U+2212) are −3. A sign that touches what it follows is an operator: "5-3" ends in 3, as does "5 - 3", whose minus
      touches no digit; "5 -3" ends in −3.
    - Commas: "1,234" is one number, also in a list without spaces such as "100,200"; "1,2" and "1, 234" are two.
    - A full stop behind a number ends the sentence; "3.50" and ".5" are decimals, "1e-3" is a power of ten. "-$3" is −3.
    - Digits inside a word count ("x2" ends in 2); fractions and percentages are not computed ("1/2" ends in 2, "50 %" is 50). Only the digits 0 to 9
      are digits.
    """
    found = list(_NUMBER.finditer(text.replace(MINUS, "-")))
    return _decimal(found[-1]) if found else None


def as_number(value: Any) -> Decimal | None:
    """Read an answer as an exact number: an int, a finite float (as Python prints it), a Decimal, or a text that is one number; else None."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    if isinstance(value, float):
        return Decimal(repr(value)) if math.isfinite(value) else None
    found = _NUMBER.fullmatch(value.strip().replace(MINUS, "-")) if isinstance(value, str) else None
    return None if found is None else _decimal(found)


def _decimal(found: re.Match[str]) -> Decimal:
    return Decimal(f"{found['sign'] or ''}{found['size'].replace(',', '')}{found['power'] or ''}")

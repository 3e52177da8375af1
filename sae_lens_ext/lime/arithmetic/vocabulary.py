"""The tokens of arithmetic modulo a prime: every number is one token."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.number_checks import whole_number

OPERATORS = ("+", "−", "×", "÷")
"""In the order of their token ids. The last two bind more tightly."""
LARGEST_MODULUS = 1_000
"""Beyond it the table of operations fills the memory, and telling a prime takes long."""
N_LOOSE = 2
"""How many of `OPERATORS`, from the first, bind loosely."""


@dataclass(frozen=True)
class ArithmeticVocabulary:
    """Token ids of arithmetic expressions: the numbers 0 to modulus − 1 are their own ids, the signs follow.

    Args:
        modulus: A prime, so that every number but 0 can be divided by.

    Raises:
        ValueError: The modulus is no prime.
    """

    modulus: int = 11

    def __post_init__(self) -> None:
        prime = whole_number(self.modulus)
        if prime is not None and prime > LARGEST_MODULUS:
            raise ValueError(
                f"ArithmeticVocabulary was given modulus = {self.modulus!r:.60}. The table of operations has 4 × modulus² numbers; give a prime up to "
                f"{LARGEST_MODULUS}, such as 11."
            )
        if prime is None or prime < 2 or any(prime % d == 0 for d in range(2, isqrt(prime) + 1)):
            raise ValueError(
                f"ArithmeticVocabulary was given modulus = {self.modulus!r:.60}, which is not a prime, so that there would be numbers other than 0 that "
                "cannot be divided by. Give a prime, such as 11."
            )
        object.__setattr__(self, "modulus", prime)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The text of every token, in the order of the ids."""
        return (*map(str, range(self.modulus)), *OPERATORS, "(", ")", "=", "<end>", "<bos>")

    @property
    def size(self) -> int:
        """How many tokens there are: `d_vocab` of a model."""
        return self.modulus + len(OPERATORS) + 5

    @property
    def operators(self) -> NDArray[np.int64]:
        """Ids of + − × ÷, [4]."""
        return self.modulus + np.arange(len(OPERATORS))

    @property
    def opening(self) -> int:
        """Id of "("."""
        return self.modulus + len(OPERATORS)

    @property
    def closing(self) -> int:
        """Id of ")"."""
        return self.opening + 1

    @property
    def equals(self) -> int:
        """Id of "="."""
        return self.opening + 2

    @property
    def end(self) -> int:
        """Id of the token after the answer."""
        return self.opening + 3

    @property
    def bos(self) -> int:
        """Id of the token that every text begins with."""
        return self.opening + 4

    def decode(self, tokens: Iterable[Any]) -> str:
        """Give tokens as text, such as "7÷2+3×4=9+3×4=9+1=10".

        Args:
            tokens: Token ids, [n]; an id that this vocabulary does not have is shown as "?".
        """
        symbols = self.symbols
        return "".join(
            symbols[token] if 0 <= token < len(symbols) else "?" for token in (int(token) for token in tokens)
        )

    def results(self) -> NDArray[np.int64]:
        """Give the value of every operation, [4, modulus (left), modulus (right)]; −1 for a division by zero."""
        left, right = np.indices((self.modulus, self.modulus))
        inverse = np.array([0, *(pow(number, -1, self.modulus) for number in range(1, self.modulus))])
        quotient = np.where(right == 0, -1, left * inverse[right] % self.modulus)
        return np.stack(
            [*(np.mod(found, self.modulus) for found in (left + right, left - right, left * right)), quotient]
        )

"""How an expression of a given structure is written, and worked out one operation a step.

A structure is a binary tree together with, for each operator, whether it binds tightly (× ÷) or loosely (+ −). Where the parentheses stand and in
which order the operations are done depend on nothing else, so all expressions of one structure are written and worked out at once.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.lime.arithmetic.vocabulary import ArithmeticVocabulary

Tree = tuple["Tree", "Tree"] | None
"""A pair of trees under an operator; None is a number."""
Kind = Literal["value", "operator", "(", ")", "="]
Symbol = tuple[Kind, int]
"""With which value (operands first, then the results of the steps), or which operator; 0 of the others."""
_EQUALS: Symbol = ("=", 0)


@lru_cache
def trees(n_operands: int) -> tuple[Tree, ...]:
    """Give every binary tree with n leaves."""
    if n_operands == 1:
        return (None,)
    return tuple(
        (left, right) for n in range(1, n_operands) for left in trees(n) for right in trees(n_operands - n)
    )


def written(tree: Tree, tight: tuple[bool, ...]) -> list[Symbol]:
    """Write a tree with no more parentheses than it needs; operators group from left to right.

    Args:
        tree: The tree.
        tight: For each operator as they are written, from left to right, whether it is × or ÷.
    """

    def write(part: Tree, first: int) -> tuple[list[Symbol], int | None, int]:
        """Give the symbols, the part's own operator, and how many operands it has; `first` is its first operand."""
        if part is None:
            return [("value", first)], None, 1
        left, left_operator, n_left = write(part[0], first)
        own = first + n_left - 1
        right, right_operator, n_right = write(part[1], first + n_left)
        if left_operator is not None and tight[own] and not tight[left_operator]:
            left = _enclosed(left)
        if right_operator is not None and (tight[own] or not tight[right_operator]):
            right = _enclosed(right)
        return [*left, ("operator", own), *right], own, n_left + n_right

    return write(tree, 0)[0]


def _enclosed(symbols: list[Symbol]) -> list[Symbol]:
    return [("(", 0), *symbols, (")", 0)]


@dataclass(frozen=True, eq=False)
class Chain:
    """An expression's structure, and those of what is left of it after each step."""

    steps: tuple[tuple[int, int, int], ...]
    """The operator of each step, and which values it is applied to."""
    symbols: tuple[Symbol, ...]
    """All that is written, without the tokens at both ends."""
    n_prompt: int
    """How many of the symbols are the expression and the first "="."""

    def values(
        self, operators: NDArray[np.int64], operands: NDArray[np.int64], results: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Work expressions out.

        Args:
            operators: Index of each operator, [n, n_operands − 1].
            operands: The numbers, [n, n_operands].
            results: `ArithmeticVocabulary.results`.

        Returns:
            Operands and results of the steps, [n, 2 · n_operands − 1], and which expressions divide by nothing that is zero, [n].
        """
        values = [*operands.T]
        valid = np.ones(len(operands), dtype=bool)
        for operator, left, right in self.steps:
            found = results[operators[:, operator], values[left], values[right]]
            valid &= found >= 0
            values.append(np.maximum(found, 0))
        return np.stack(values, axis=1), valid

    def tokens(
        self, operators: NDArray[np.int64], values: NDArray[np.int64], vocabulary: ArithmeticVocabulary
    ) -> NDArray[np.int64]:
        """Write expressions and their steps, with the tokens at both ends, [n, n_symbols + 2].

        Args:
            operators: As for `values`.
            values: What `values` gives.
            vocabulary: The tokens.
        """
        ids: Any = {"(": vocabulary.opening, ")": vocabulary.closing, "=": vocabulary.equals}
        columns = [
            values[:, index]
            if kind == "value"
            else vocabulary.operators[operators[:, index]]
            if kind == "operator"
            else np.full(len(values), ids[kind])
            for kind, index in self.symbols
        ]
        bos, end = (np.full(len(values), token) for token in (vocabulary.bos, vocabulary.end))
        return np.stack([bos, *columns, end], axis=1)


@lru_cache(maxsize=8192)
def chain(tree: Tree, tight: tuple[bool, ...]) -> Chain:
    """Work a structure out: the leftmost innermost parenthesis first, in it × and ÷ before + and −, and from left to right.

    Args:
        tree: The tree.
        tight: For each operator as they are written, from left to right, whether it is × or ÷.
    """
    symbols = written(tree, tight)
    result = len(tight) + 1
    steps: list[tuple[int, int, int]] = []
    lines = list(symbols)
    while len(symbols) > 1:
        at = _next_operator(symbols, tight)
        (_, left), (_, operator), (_, right) = symbols[at - 1 : at + 2]
        steps.append((operator, left, right))
        enclosed = at > 1 and symbols[at - 2][0] == "(" and symbols[at + 2][0] == ")"
        symbols[at - 1 - enclosed : at + 2 + enclosed] = [("value", result)]
        result += 1
        lines += [_EQUALS, *symbols]
    return Chain(tuple(steps), tuple(lines), lines.index(_EQUALS) + 1)


def _next_operator(symbols: list[Symbol], tight: tuple[bool, ...]) -> int:
    kinds = [kind for kind, _ in symbols]
    first, last = 0, len(symbols)
    if ")" in kinds:
        last = kinds.index(")")
        first = last - kinds[:last][::-1].index("(")
    operators = [i for i in range(first, last) if kinds[i] == "operator"]
    return next((i for i in operators if tight[symbols[i][1]]), operators[0])


def longest(n_operands: int) -> int:
    """Give the most tokens that an expression, its steps and the tokens at both ends can have."""
    lines = [1, *(4 * n - 5 for n in range(2, n_operands + 1))]
    return 2 + sum(lines) + len(lines) - 1


def count_expressions(n_operands: int, modulus: int = 11) -> int:
    """Count the expressions that there are: of n numbers modulo a prime, with no more parentheses than needed and no division by zero.

    Args:
        n_operands: Numbers in an expression.
        modulus: The prime.
    """
    results = ArithmeticVocabulary(modulus).results()
    by_value = [[0] * modulus, [1] * modulus]
    for n in range(2, n_operands + 1):
        counts = [0] * modulus
        for n_left in range(1, n):
            for (_, left, right), value in np.ndenumerate(results):
                if value >= 0:
                    counts[value] += by_value[n_left][left] * by_value[n - n_left][right]
        by_value.append(counts)
    return sum(by_value[n_operands])

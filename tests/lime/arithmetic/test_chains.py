"""Expressions are written with the parentheses they need, and worked out in one order."""

from itertools import product

import numpy as np
import pytest

from sae_lens_ext.lime.arithmetic import ArithmeticVocabulary, count_expressions
from sae_lens_ext.lime.arithmetic.chains import Tree, chain, longest, trees, written
from tests.lime.arithmetic.worked import value

VOCABULARY = ArithmeticVocabulary()
LEFT: Tree = ((None, None), None)
RIGHT: Tree = (None, (None, None))
BOTH: Tree = ((None, None), (None, None))


def text(tree: Tree, operators: str, operands: list[int], modulus: int = 11) -> str:
    vocabulary = ArithmeticVocabulary(modulus)
    indices = np.array([["+−×÷".index(operator) for operator in operators]])
    own = chain(tree, tuple(operator in "×÷" for operator in operators))
    values, valid = own.values(indices, np.array([operands]), vocabulary.results())
    return vocabulary.decode(own.tokens(indices, values, vocabulary)[0]) if valid[0] else "invalid"


@pytest.mark.parametrize(
    ("tree", "operators", "operands", "expected"),
    [
        (LEFT, "−−", [7, 2, 9], "7−2−9=5−9=7"),
        (RIGHT, "−−", [7, 2, 9], "7−(2−9)=7−4=3"),
        (RIGHT, "+×", [7, 2, 9], "7+2×9=7+7=3"),
        (LEFT, "+×", [7, 2, 9], "(7+2)×9=9×9=4"),
        (LEFT, "×+", [7, 2, 9], "7×2+9=3+9=1"),
        (RIGHT, "×÷", [6, 2, 4], "6×(2÷4)=6×6=3"),
        (BOTH, "÷+×", [7, 2, 3, 4], "7÷2+3×4=9+3×4=9+1=10"),
        (BOTH, "−÷−", [8, 5, 9, 7], "(8−5)÷(9−7)=3÷(9−7)=3÷2=7"),
        (BOTH, "−−×", [8, 5, 9, 7], "8−5−9×7=8−5−8=3−8=6"),
        (
            (None, ((None, (None, None)), None)),
            "×+×−",
            [2, 1, 5, 10, 3],
            "2×(1+5×10−3)=2×(1+6−3)=2×(7−3)=2×4=8",
        ),
        (  # the leftmost of the innermost parentheses, not of all
            ((None, (None, (None, None))), (None, None)),
            "−−−×−",
            [1, 2, 3, 4, 5, 6],
            "(1−(2−(3−4)))×(5−6)=(1−(2−10))×(5−6)=(1−3)×(5−6)=9×(5−6)=9×10=2",
        ),
        (LEFT, "÷+", [7, 0, 2], "invalid"),
        (RIGHT, "÷−", [7, 4, 4], "invalid"),
        (RIGHT, "÷−", [0, 4, 3], "0÷(4−3)=0÷1=0"),
    ],
)
def test_chains_worked_by_hand(tree: Tree, operators: str, operands: list[int], expected: str) -> None:
    found = text(tree, operators, operands)
    assert found == (expected if expected == "invalid" else f"<bos>{expected}<end>")


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_there_are_as_many_trees_as_catalan_says(n: int) -> None:
    assert len(set(trees(n))) == len(trees(n)) == [1, 1, 2, 5, 14, 42][n - 1]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_two_structures_are_written_alike(n: int) -> None:
    seen = {
        tuple((kind, tight[i]) if kind == "operator" else kind for kind, i in written(tree, tight))
        for tree in trees(n)
        for tight in product([False, True], repeat=n - 1)
    }
    assert len(seen) == len(trees(n)) * 2 ** (n - 1)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_the_longest_chain_is_as_long_as_promised(n: int) -> None:
    lengths = [
        len(chain(tree, tight).symbols) + 2
        for tree in trees(n)
        for tight in product([False, True], repeat=n - 1)
    ]
    assert max(lengths) == longest(n)


@pytest.mark.parametrize(("n", "modulus"), [(1, 3), (2, 3), (3, 3), (3, 2), (4, 2), (2, 11)])
def test_expressions_are_counted_as_by_writing_them_all_down(n: int, modulus: int) -> None:
    texts = set()
    for tree in trees(n):
        for operators in product("+−×÷", repeat=n - 1):
            for operands in product(range(modulus), repeat=n):
                signs = [operators, operands]
                symbols = written(tree, tuple(operator in "×÷" for operator in operators))
                texts.add(
                    "".join(
                        str(signs[kind == "value"][i]) if kind in ("value", "operator") else kind
                        for kind, i in symbols
                    )
                )
    assert count_expressions(n, modulus) == sum(value(text, modulus) is not None for text in texts)

"""Drawing expressions uniformly from all that there are."""

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.lime.arithmetic.chains import Tree, chain, count_expressions, trees
from sae_lens_ext.lime.arithmetic.vocabulary import N_LOOSE, OPERATORS, ArithmeticVocabulary

Ints = NDArray[np.int64]
LEAST_DRAWN = 1024
MOST_DRAWN = 200_000
"""Trees drawn at once."""


def draw(
    n_operands: int, n: int, vocabulary: ArithmeticVocabulary, seed: int, taken: AbstractSet[bytes] | None
) -> dict[int, tuple[Ints, Ints]]:
    """Draw expressions and work them out.

    A tree, its operators and its numbers are drawn uniformly and independently, and what divides by zero is thrown away: so every expression is as likely.

    Args:
        n_operands: Numbers in an expression.
        n: How many.
        vocabulary: The tokens.
        seed: Of the draw.
        taken: The bytes of expressions that must not be drawn, and then none twice; None if anything may be.

    Returns:
        By length, token ids [n_i, length] in the order they were drawn, and the lengths of the prompts, [n_i].

    Raises:
        ValueError: There are not as many expressions.
    """
    if taken is not None:
        _require_enough(n_operands, n, vocabulary, taken)
    rng = np.random.default_rng([seed, n_operands])
    seen = None if taken is None else set(taken)
    shapes = trees(n_operands)
    found: dict[int, list[tuple[Ints, Ints]]] = {}
    missing = n
    while missing > 0:
        at_once = min(max(2 * missing, LEAST_DRAWN), MOST_DRAWN)
        tree = rng.integers(len(shapes), size=at_once)
        operators = rng.integers(len(OPERATORS), size=(at_once, n_operands - 1))
        operands = rng.integers(vocabulary.modulus, size=(at_once, n_operands))
        drawn = _worked_out(shapes, tree, operators, operands, vocabulary)
        chosen = _first(drawn, missing, seen)
        for (tokens, prompts, _), own in zip(drawn, chosen, strict=True):
            found.setdefault(tokens.shape[1], []).append((tokens[own], prompts[own]))
        missing -= sum(map(len, chosen))
    return {
        length: (np.concatenate([own for own, _ in parts]), np.concatenate([own for _, own in parts]))
        for length, parts in found.items()
        if any(len(own) for own, _ in parts)
    }


def _worked_out(
    shapes: tuple[Tree, ...], tree: Ints, operators: Ints, operands: Ints, vocabulary: ArithmeticVocabulary
) -> list[tuple[Ints, Ints, Ints]]:
    """Give tokens, lengths of prompts and positions in the draw, ascending, of what divides by nothing that is zero; by length."""
    tight = operators >= N_LOOSE
    structure = (tree << operators.shape[1]) | (tight << np.arange(operators.shape[1])).sum(axis=1)
    order = np.argsort(structure, kind="stable")
    starts = np.flatnonzero(np.diff(structure[order], prepend=-1))
    results = vocabulary.results()
    by_length: dict[int, list[tuple[Ints, Ints, Ints]]] = {}
    for rows in np.split(order, starts[1:]):
        own = chain(shapes[tree[rows[0]]], tuple(tight[rows[0]].tolist()))
        values, valid = own.values(operators[rows], operands[rows], results)
        rows, values = rows[valid], values[valid]
        tokens = own.tokens(operators[rows], values, vocabulary)
        prompts = np.full(len(rows), own.n_prompt + 1)
        by_length.setdefault(tokens.shape[1], []).append((tokens, prompts, rows))
    together = [[np.concatenate(each) for each in zip(*parts, strict=True)] for parts in by_length.values()]
    return [
        (tokens[o], prompts[o], rows[o])
        for tokens, prompts, rows in together
        for o in [np.argsort(rows, kind="stable")]
    ]


def _first(drawn: list[tuple[Ints, Ints, Ints]], n: int, seen: set[bytes] | None) -> list[Ints]:
    """Give the positions in each group of the n that were drawn first; unless `seen` is None, of those not in it, and note them there."""
    group = np.repeat(np.arange(len(drawn)), [len(rows) for *_, rows in drawn])
    position = np.concatenate([np.arange(len(rows)) for *_, rows in drawn])
    order = np.argsort(np.concatenate([rows for *_, rows in drawn]), kind="stable")
    chosen: list[int] = []
    for i in order.tolist():
        if len(chosen) == n:
            break
        if seen is not None:
            tokens, prompts, _ = drawn[group[i]]
            key = tokens[position[i], 1 : prompts[position[i]]].tobytes()
            if key in seen:
                continue
            seen.add(key)
        chosen.append(i)
    kept = np.array(chosen, dtype=np.int64)
    return [np.sort(position[kept[group[kept] == i]]) for i in range(len(drawn))]


def _require_enough(
    n_operands: int, n: int, vocabulary: ArithmeticVocabulary, taken: AbstractSet[bytes]
) -> None:
    exist = count_expressions(n_operands, vocabulary.modulus)
    numbers = np.arange(vocabulary.modulus)
    used = sum(int(np.isin(np.frombuffer(key, dtype=np.int64), numbers).sum()) == n_operands for key in taken)
    if exist - used < n:
        raise ValueError(
            f"arithmetic_examples was asked for {n:,} expressions of {n_operands} operands that are not among those given, but there are {exist:,} in all "
            f"modulo {vocabulary.modulus}, of which {used:,} are given. Ask for at most {exist - used:,}, or draw fewer of the others."
        )

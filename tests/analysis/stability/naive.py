"""The measures of `feature_stability` as their papers define them, in plain loops over lists of float64."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

Rows = Sequence[Sequence[float]]


def cosine(x: Sequence[float], y: Sequence[float]) -> float:
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    length = math.sqrt(sum(p * p for p in x)) * math.sqrt(sum(q * q for q in y))
    return dot / length if length else 0.0


def largest_cosines(anchor: Rows, other: Rows) -> list[float]:
    return [max(cosine(row, candidate) for candidate in other) for row in anchor]


def p_hat(anchor: Rows, others: Sequence[Rows], threshold: float) -> list[float]:
    """arXiv 2606.12138, Eq. 3-4: the share of the other SAEs with a row at θ or above."""
    found: list[float] = []
    for row in anchor:
        matches = 0
        for other in others:
            matches += any(cosine(row, candidate) >= threshold for candidate in other)
        found.append(matches / len(others))
    return found


def mmcs(anchor: Rows, other: Rows) -> float:
    """Sharkey's mean of the maximum cosine, one way."""
    return sum(largest_cosines(anchor, other)) / len(anchor)


def partners(a: Rows, b: Rows) -> dict[int, int]:
    """The Hungarian matching: pairs of rows, each at most once, whose cosines have the largest sum."""
    matrix = np.array([[cosine(x, y) for y in b] for x in a])
    rows, columns = linear_sum_assignment(-matrix)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))


def pw_mcc(a: Rows, b: Rows) -> float:
    """arXiv 2505.20254: mean signed cosine of the pairs of the Hungarian matching."""
    cosines = [cosine(a[i], b[j]) for i, j in partners(a, b).items()]
    return sum(cosines) / len(cosines)


def matched(a: Rows, b: Rows, threshold: float) -> float:
    pairs = partners(a, b)
    return sum(cosine(a[i], b[j]) >= threshold for i, j in pairs.items()) / len(pairs)


def shared(a: Rows, b: Rows, a_encoder: Rows, b_encoder: Rows, threshold: float) -> float:
    """arXiv 2501.16615: decoders and encoders, each matched by themselves, give one partner, with both cosines at θ or above."""
    by_decoder, by_encoder = partners(a, b), partners(a_encoder, b_encoder)
    count = 0
    for i, j in by_decoder.items():
        if by_encoder.get(i) != j:
            continue
        count += cosine(a[i], b[j]) >= threshold and cosine(a_encoder[i], b_encoder[j]) >= threshold
    return count / min(len(a), len(b))


def agreement(a: Rows, all_of_b: Rows, counted_of_b: Rows, threshold: float) -> float:
    """Intersection over union of the rows of `a` that match many to one, any row, and one to one, only rows that count."""
    many = {i for i, largest in enumerate(largest_cosines(a, all_of_b)) if largest >= threshold}
    pairs = partners(a, counted_of_b)
    one = {i for i, j in pairs.items() if cosine(a[i], counted_of_b[j]) >= threshold}
    return len(one & many) / len(one | many) if one | many else 1.0

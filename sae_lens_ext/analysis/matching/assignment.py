"""Matching the rows of two matrices one to one, so that the sum of their cosines is as large as can be (the assignment problem)."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from sae_lens_ext.analysis.matching.cosines import top_cosines

DENSE_UP_TO = 2048
"""Rows up to which every cosine takes part in the assignment; beyond, the largest of each row do."""
CANDIDATES = 16

_IndexArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def one_to_one(a: torch.Tensor, b: torch.Tensor, *, candidates: int = CANDIDATES) -> torch.Tensor:
    """Assign to each row of `a` a row of `b` of its own, or none.

    The sum of the cosines is the largest there is. Up to 2,048 rows all pairs take part; beyond, each row's `candidates` most similar
    ones, and a row that finds none of them free, or only ones with a negative cosine, stays without a partner.

    Args:
        a: [n, d], rows of unit length or zeros.
        b: [m, d], the same.
        candidates: Rows of `b` that may become a row's partner, if there are more than 2,048.

    Returns:
        [n], int64, on the device of `a`: the partner's index in `b`, −1 for none.
    """
    if max(len(a), len(b)) <= DENSE_UP_TO:
        partners = np.full(len(a), -1, dtype=np.int64)
        rows, columns = linear_sum_assignment((a @ b.to(a.device).T).cpu().numpy(), maximize=True)
        partners[rows] = columns
    else:
        top = top_cosines(a, b, min(candidates, len(b)))
        partners = sparse_assignment(top.values.double().cpu().numpy(), top.indices.cpu().numpy(), len(b))
    return torch.from_numpy(partners).to(a.device)


def sparse_assignment(values: _FloatArray, indices: _IndexArray, n_columns: int) -> _IndexArray:
    """Assign rows to columns where each row may take only some, so that the sum of the values is the largest; none is worth 0.

    Args:
        values: [n, k], what a row is worth in each of its columns, up to 1, descending; what is worth 0 or less is left out.
        indices: [n, k], which columns these are.
        n_columns: Columns in all.

    Returns:
        [n]: the column of each row, −1 for none.
    """
    partners = np.full(len(values), -1, dtype=np.int64)
    rows = np.repeat(np.arange(len(values)), values.shape[1])
    edges = _Edges(rows, indices.ravel(), values.ravel()).kept(values.ravel() > 0)
    while len(edges.rows):
        sure = edges.sure(len(values), n_columns)
        if not sure.any():
            break
        partners[edges.rows[sure]] = edges.columns[sure]
        taken_rows, taken_columns = np.zeros(len(values), bool), np.zeros(n_columns, bool)
        taken_rows[edges.rows[sure]] = taken_columns[edges.columns[sure]] = True
        edges = edges.kept(~taken_rows[edges.rows] & ~taken_columns[edges.columns])
    if len(edges.rows):
        rows, columns = edges.solved()
        partners[rows] = columns
    return partners


class _Edges:
    """Pairs that may be matched: row, column and what they are worth, all [e]."""

    def __init__(self, rows: _IndexArray, columns: _IndexArray, values: _FloatArray) -> None:
        self.rows, self.columns, self.values = rows, columns, values

    def kept(self, mask: np.ndarray) -> "_Edges":
        return _Edges(self.rows[mask], self.columns[mask], self.values[mask])

    def sure(self, n_rows: int, n_columns: int) -> np.ndarray:
        """Say of each edge, [e], whether it is in some best assignment for certain.

        It is if it is worth as much as the best other edge of its row and the best other edge of its column together: whatever an
        assignment without it has in these two, taking it instead is worth no less.
        """
        row_best, row_second = _two_largest(self.rows, self.values, n_rows)
        column_best, column_second = _two_largest(self.columns, self.values, n_columns)
        in_row = np.where(self.values == row_best[self.rows], row_second[self.rows], row_best[self.rows])
        in_column = np.where(
            self.values == column_best[self.columns], column_second[self.columns], column_best[self.columns]
        )
        # At equality two edges of one row could both be sure; one must be worth more, and then the other is not.
        return self.values > in_row + in_column

    def solved(self) -> tuple[_IndexArray, _IndexArray]:
        """Give the rows and columns of a best assignment; rows without a partner are left out."""
        own_rows, row = np.unique(self.rows, return_inverse=True)
        own_columns, column = np.unique(self.columns, return_inverse=True)
        n, m = len(own_rows), len(own_columns)
        # A column of its own for each row stands for "none". Costs must be positive: 2 − cosine, and 2 for none.
        everything = csr_array(
            (
                np.concatenate([2 - self.values, np.full(n, 2.0)]),
                (np.concatenate([row, np.arange(n)]), np.concatenate([column, m + np.arange(n)])),
            ),
            shape=(n, m + n),
        )
        matched_rows, matched_columns = min_weight_full_bipartite_matching(everything)
        real = matched_columns < m
        return own_rows[matched_rows[real]], own_columns[matched_columns[real]]


def _two_largest(groups: _IndexArray, values: _FloatArray, n: int) -> tuple[_FloatArray, _FloatArray]:
    """Give the largest and the second largest value of each group, [n] each; 0 where there is none."""
    order = np.lexsort((values, groups))
    groups, values = groups[order], values[order]
    best, second = np.zeros(n), np.zeros(n)
    last = np.flatnonzero(np.diff(groups, append=-1))
    best[groups[last]] = values[last]
    before = last[(last > 0)] - 1
    same = groups[before] == groups[last[last > 0]]
    second[groups[before[same]]] = values[before[same]]
    return best, second

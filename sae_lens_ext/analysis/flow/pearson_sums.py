"""Pearson correlations of sparse columns, from sums."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from scipy.sparse import csc_array

_CHUNK_BYTES = 64 * 2**20


def most_correlated(
    target: csc_array, other: csc_array, features: Sequence[int], top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give indices and scores, [d_sae, top_k] each, of the columns of `other` most correlated with columns of `target`.

    The sums are in float64, of one chunk of target features with all of the other's at a time; what is 0 costs nothing.

    Args:
        target: Activations [n_tokens, d_sae].
        other: Activations [n_tokens, d_sae_b].
        features: Columns of `target` that are wanted; the others get −1 and NaN.
        top_k: How many.
    """
    n, d_sae = _size(target)
    indices = torch.full((d_sae, top_k), -1)
    scores = torch.full((d_sae, top_k), float("nan"), dtype=torch.float64)
    other_sum, other_spread = _moments(other)
    wanted = np.asarray(features, dtype=np.int64)
    step = max(1, _CHUNK_BYTES // (8 * _size(other)[1]))
    for first in range(0, len(wanted), step):
        chunk = wanted[first : first + step]
        own = target[:, chunk]
        own_sum, own_spread = _moments(own)
        covariance = n * (own.T @ other).toarray() - np.outer(own_sum, other_sum)
        scale = np.sqrt(np.outer(own_spread, other_spread))
        with np.errstate(divide="ignore", invalid="ignore"):
            r = np.where(scale > 0, covariance / scale, -np.inf)  # what never varies correlates with nothing
        best = torch.from_numpy(r).topk(top_k, dim=1)
        known = torch.isfinite(best.values)
        indices[chunk] = torch.where(known, best.indices, -1)
        scores[chunk] = torch.where(known, best.values.clamp(-1, 1), float("nan"))
    return indices, scores


def _moments(acts: csc_array) -> tuple[np.ndarray, np.ndarray]:
    """Give Σx and n Σx² − (Σx)² of each column; what is 0 but for rounding is 0."""
    total = np.asarray(acts.sum(axis=0)).ravel()
    squares = _size(acts)[0] * np.asarray((acts * acts).sum(axis=0)).ravel()
    spread = squares - total**2
    return total, np.where(spread > 1e-12 * squares, spread, 0.0)


def _size(acts: csc_array) -> tuple[int, int]:
    """Give the shape, which scipy's stubs say may be unknown."""
    return cast("tuple[int, int]", acts.shape)

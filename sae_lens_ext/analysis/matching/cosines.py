"""The largest cosines between the rows of two matrices, without the matrix of all of them.

On processors and GPUs that multiply bfloat16 several times as fast as float32, a shortlist is made in bfloat16 and its cosines are
computed again in float32. Rows whose shortlist might miss the largest one by rounding are compared in float32 as a whole, so that the
largest cosine is exact either way.
"""

from dataclasses import dataclass
from functools import cache

import torch

from sae_lens_ext.number_checks import whole_number

_SHORTLIST = 16
"""Rows on a shortlist, at least: with fewer, more rows must be compared in float32 as a whole."""
_CHUNK_BYTES = 24 * 2**20


@dataclass(frozen=True, eq=False)
class TopCosines:
    """For every row of a first matrix, the rows of a second that are most like it."""

    values: torch.Tensor
    """[n, top_k], float32, −1 to 1, descending. The largest is exact; with a shortlist in bfloat16, one of the others may have been
    missed for another that is smaller by no more than rounding."""
    indices: torch.Tensor
    """[n, top_k], int64: which rows they are."""


@torch.no_grad()
def top_cosines(
    a: torch.Tensor,
    b: torch.Tensor,
    top_k: int = 1,
    *,
    chunk_bytes: int = _CHUNK_BYTES,
    shortlist: bool | None = None,
) -> TopCosines:
    """Find the rows of `b` that have the largest cosine with each row of `a`.

    Args:
        a: [n, d], rows of unit length, or zeros, whose cosine with anything is 0.
        b: [m, d], the same.
        top_k: How many to find, at most m.
        chunk_bytes: Memory for one chunk of rows: their cosines and their shortlist, all that is held beside the result.
        shortlist: Use bfloat16 for a shortlist; by default where the processor is fast at it and there are enough rows.

    Returns:
        The cosines and indices, on the device of `a`.

    Raises:
        ValueError: top_k is out of range.
    """
    number = whole_number(top_k)
    if number is None or not 1 <= number <= len(b):
        raise ValueError(
            f"top_k = {top_k} is out of range. There are {len(b)} rows to choose from: give 1 to {len(b)}."
        )
    top_k = number
    b = b.to(a.device)
    n_short = max(top_k, _SHORTLIST)
    if shortlist is None:
        shortlist = len(b) >= 32 * n_short and _is_fast_at_bfloat16(a.device.type)
    if not shortlist or n_short >= len(b):
        rows = max(1, chunk_bytes // (4 * len(b)))
        return _join([_exact(part, b, top_k) for part in a.split(rows)])
    b_rounded = b.bfloat16()
    b_error = float((b - b_rounded.float()).norm(dim=1).max())
    rows = max(1, chunk_bytes // (4 * (len(b) + n_short * b.shape[1])))
    return _join([_shortlisted(part, b, b_rounded, b_error, top_k, n_short) for part in a.split(rows)])


def paired_cosines(a: torch.Tensor, b: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Give the cosine of each row of `a` [n, d] with its partner in `b` [m, d], [n]; NaN where `partners` [n] is −1."""
    cosines = torch.full((len(a),), float("nan"), device=a.device)
    paired = partners >= 0
    cosines[paired] = (a[paired] * b.to(a.device)[partners[paired]]).sum(dim=1)
    return cosines


def _exact(a: torch.Tensor, b: torch.Tensor, top_k: int) -> TopCosines:
    return TopCosines(*(a @ b.T).topk(top_k, dim=1))


def _shortlisted(
    a: torch.Tensor, b: torch.Tensor, b_rounded: torch.Tensor, b_error: float, top_k: int, n_short: int
) -> TopCosines:
    a_rounded = a.bfloat16()
    rough, candidates = (a_rounded @ b_rounded.T).topk(n_short, dim=1)
    exact = torch.einsum("nd,nkd->nk", a, b[candidates])
    values, order = exact.topk(top_k, dim=1)
    indices = candidates.gather(1, order)
    # Whatever is not on the shortlist has a rough cosine of at most the last one's there, and a true one that is larger by no more
    # than the two vectors' rounding, a·b − ã·b̃ = (a − ã)·b + ã·(b − b̃), and the result's, 2⁻⁸ of it.
    last = rough[:, -1].float()
    a_error = (a - a_rounded.float()).norm(dim=1)
    largest_left_out = last + last.abs() * 2**-7 + a_error + (1 + a_error) * b_error + 1e-5
    unsure = largest_left_out > values[:, 0]
    if unsure.any():
        values[unsure], indices[unsure] = (a[unsure] @ b.T).topk(top_k, dim=1)
    return TopCosines(values, indices)


def _join(parts: list[TopCosines]) -> TopCosines:
    return TopCosines(torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts]))


@cache
def _is_fast_at_bfloat16(device_type: str) -> bool:
    if device_type == "cpu":
        return getattr(
            torch.cpu, "_is_amx_tile_supported", lambda: False
        )()  # private: it may be gone one day
    return device_type == "cuda"

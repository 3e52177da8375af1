"""Going through many directions in order and keeping those that are new."""

from dataclasses import dataclass

import torch

from sae_lens_ext.analysis.matching.cosines import top_cosines

_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Selection:
    """What `select_distinct` kept."""

    kept: torch.Tensor
    """[n_kept], int64: which rows, in the order they were visited."""
    cluster: torch.Tensor
    """[n], int64: the position in `kept` of the kept row that each row is most like, itself for a kept one; −1 for a row that is like
    none of them, because enough were kept before it."""


@torch.no_grad()
def select_distinct(rows: torch.Tensor, n: int, threshold: float) -> Selection:
    """Keep a row unless one that is kept already has a cosine of at least `threshold` with it, until n are kept.

    Args:
        rows: [m, d] of unit length, the most wanted first.
        n: Rows to keep, at most.
        threshold: The cosine from which two rows are one.
    """
    kept = torch.empty(0, dtype=torch.int64, device=rows.device)
    for start in range(0, len(rows), _BLOCK):
        if len(kept) >= n:
            break
        block = torch.arange(start, min(start + _BLOCK, len(rows)), device=rows.device)
        if len(kept):
            new = top_cosines(rows[block], rows[kept]).values[:, 0] < threshold
            block = block[new]
        kept = torch.cat([kept, block[_distinct_within(rows[block], threshold)]])[:n]
    cluster = torch.full((len(rows),), -1, dtype=torch.int64)
    if len(kept):
        nearest = top_cosines(rows, rows[kept])
        alike = (nearest.values[:, 0] >= threshold).cpu()
        cluster[alike] = nearest.indices[:, 0].cpu()[alike]
        cluster[kept.cpu()] = torch.arange(len(kept))
    return Selection(kept.cpu(), cluster)


def _distinct_within(rows: torch.Tensor, threshold: float) -> torch.Tensor:
    """Say of each row, [m], whether no row kept before it is like it."""
    like = ((rows @ rows.T) >= threshold).cpu()
    kept = torch.zeros(len(rows), dtype=torch.bool)
    for i in range(len(rows)):
        kept[i] = not bool((like[i, :i] & kept[:i]).any())
    return kept.to(rows.device)

"""The tokens whose unembedding is nearest to a direction, and farthest, and how near a random one comes."""

from dataclasses import dataclass
from typing import Literal

import torch

from sae_lens_ext.steering.reading.lens.unembedding import CHUNK, Unembedding

Measure = Literal["cosine", "dot"]
MEASURES: tuple[Measure, ...] = ("cosine", "dot")


@dataclass(frozen=True, eq=False)
class Ranking:
    """Of each direction the tokens at both ends, on the CPU."""

    top_ids: torch.Tensor
    """Tokens with the largest values, descending, [n, k], int64."""
    top_values: torch.Tensor
    """Their values, [n, k], float32."""
    bottom_ids: torch.Tensor
    """Tokens with the smallest values, ascending, [n, k], int64."""
    bottom_values: torch.Tensor
    """Their values, [n, k], float32."""
    random_largest: float
    """What 95 in 100 of the random directions stay below with the largest |value| of any token."""


@torch.no_grad()
def rank_tokens(
    directions: torch.Tensor, random: torch.Tensor, unembedding: Unembedding, measure: Measure, top_k: int
) -> Ranking:
    """Rank all tokens by W_U[v] · x or its cosine, for several x at once; of equal values the lower id comes first.

    W_U is read once, in chunks of tokens: only a chunk is ever copied, and only to float32, in which all is computed. A column of
    zeros has cosine 0.

    Args:
        directions: x, [n, d_model], float32 or float64; none of them zero.
        random: Random directions to compare with, [m, d_model].
        unembedding: W_U.
        measure: "cosine" or "dot".
        top_k: Tokens at each end; all, if there are fewer.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    n, n_tokens = len(directions), len(unembedding.ids)
    rows = torch.cat([directions.double(), random.double()])
    if measure == "cosine":
        rows = rows / rows.norm(dim=1, keepdim=True)
    rows = rows.to(unembedding.W_U.device, torch.float32)
    values = torch.empty(n, n_tokens, device=rows.device)
    largest = torch.zeros(len(random), device=rows.device)
    for start in range(0, n_tokens, CHUNK):
        found = _values(rows, unembedding.columns(start, start + CHUNK), measure)
        values[:, start : start + CHUNK] = found[:n]
        largest = torch.maximum(largest, found[n:].abs().amax(dim=1))
    if not torch.isfinite(values).all():
        raise ValueError(
            "The unembedding W_U gives NaN or infinity for a token. Look at the model's weights, and at the size of the vectors."
        )
    top, bottom = _ends(values, top_k), _ends(-values, top_k)
    return Ranking(
        unembedding.ids[top],
        values.cpu().gather(1, top),
        unembedding.ids[bottom],
        values.cpu().gather(1, bottom),
        float(largest.quantile(0.95)),
    )


def _values(rows: torch.Tensor, columns: torch.Tensor, measure: Measure) -> torch.Tensor:
    """Give the values [n, tokens] of directions [n, d_model] (of length 1 for cosines) and columns [d_model, tokens]."""
    with torch.autocast(rows.device.type, enabled=False):
        products = rows @ columns
    if measure == "dot":
        return products
    lengths = columns.norm(dim=0)
    cosines = (products / lengths).clamp(-1, 1)
    return torch.where(lengths == 0, 0.0, cosines)


def _ends(values: torch.Tensor, k: int) -> torch.Tensor:
    """Give the positions of the k largest of each row [n, tokens], descending, the first of equals first; on the CPU."""
    k = min(k, values.shape[1])
    least = values.topk(k, dim=1).values[:, -1:]
    rows, positions = (values >= least).nonzero(
        as_tuple=True
    )  # by row, ascending, and with all that tie with the last
    counts = torch.bincount(rows, minlength=len(values)).tolist()
    found: list[torch.Tensor] = []
    for row, own in zip(values, positions.split(counts), strict=True):
        order = row[own].sort(descending=True, stable=True).indices
        found.append(own[order[:k]])
    return torch.stack(found).cpu()

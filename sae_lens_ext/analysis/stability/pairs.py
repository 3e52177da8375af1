"""Two SAEs at a time: one-to-one matching of decoders and of encoders, and what follows from it."""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch

from sae_lens_ext.analysis.matching.assignment import DENSE_UP_TO, one_to_one
from sae_lens_ext.analysis.matching.cosines import paired_cosines
from sae_lens_ext.analysis.stability.report import PairMeasures

Pairs = Literal["all", "ring"]


def pairs_to_match(sizes: Sequence[int], which: Pairs | None) -> list[tuple[int, int]]:
    """Choose the pairs of SAEs to match one to one: all, or a ring in which each SAE is in two.

    Args:
        sizes: Latents of each SAE.
        which: As for `feature_stability`; None is all up to 2,048 latents, and beyond a ring.

    Returns:
        Positions of two SAEs each, the smaller first.

    Raises:
        ValueError: There is no such choice.
    """
    if which not in ("all", "ring", None):
        raise ValueError(f'feature_stability was given pairs = {which!r}. Give "all", "ring" or None.')
    n = len(sizes)
    everyone = list(combinations(range(n), 2))
    if which == "all" or (which is None and max(sizes) <= DENSE_UP_TO):
        return everyone
    return [(a, b) for a, b in everyone if b - a in (1, n - 1)]


def pair_measures(
    pair: tuple[int, int],
    decoders: Sequence[torch.Tensor],
    encoders: Sequence[torch.Tensor | None],
    found: Sequence[Sequence[torch.Tensor]],
    included: Sequence[torch.Tensor],
    threshold: float,
) -> PairMeasures:
    """Compare the latents that count of two SAEs, each way and one to one.

    Args:
        pair: Positions of the two, the smaller first.
        decoders: By SAE, unit decoder rows [d_sae, d_in].
        encoders: By SAE, unit encoder rows [d_sae, d_in], or None.
        found: By SAE, for each other SAE in order, the largest cosines [d_sae] of its decoder rows.
        included: By SAE, [d_sae], which latents count.
        threshold: θ.
    """
    a, b = pair
    # `found` holds the other SAEs in order, without the anchor itself.
    to_b, to_a = found[a][b - 1][included[a]], found[b][a][included[b]]
    rows_a, rows_b = (decoders[i][included[i].to(decoders[i].device)] for i in pair)
    partners = one_to_one(rows_a, rows_b)
    cosines = paired_cosines(rows_a, rows_b, partners).nan_to_num(0.0).cpu()
    n = min(len(rows_a), len(rows_b))
    one, many = cosines >= threshold, to_b >= threshold
    either = int((one | many).sum())
    return PairMeasures(
        first=a,
        second=b,
        pw_mcc=float(cosines.sum()) / n,
        mmcs_first=float(to_b.mean()),
        mmcs_second=float(to_a.mean()),
        matched=int(one.sum()) / n,
        agreement=int((one & many).sum()) / either if either else 1.0,
        shared=_shared(pair, encoders, included, partners, one, threshold),
    )


def _shared(
    pair: tuple[int, int],
    encoders: Sequence[torch.Tensor | None],
    included: Sequence[torch.Tensor],
    partners: torch.Tensor,
    decoders_match: torch.Tensor,
    threshold: float,
) -> float | None:
    """Give the share of latents whose encoder vectors, matched by themselves, have the same partner and are as similar."""
    rows: list[torch.Tensor] = []
    for i in pair:
        encoder = encoders[i]
        if encoder is None:
            return None
        rows.append(encoder[included[i].to(encoder.device)])
    by_encoder = one_to_one(rows[0], rows[1])
    same = (by_encoder == partners).cpu() & (paired_cosines(rows[0], rows[1], by_encoder).cpu() >= threshold)
    return int((same & decoders_match).sum()) / min(len(rows[0]), len(rows[1]))

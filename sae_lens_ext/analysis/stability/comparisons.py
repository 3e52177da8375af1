"""The largest cosine of every latent with every other SAE, and with rotated ones, divided over the ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.matching.cosines import top_cosines
from sae_lens_ext.analysis.stability.rotations import random_rotation
from sae_lens_ext.ranks import Ranks, divided, share_of

BLOCK_ROWS = 3072
"""Rows of an anchor that are one piece of work, where there are fewer comparisons than ranks: a multiple of the rows that `top_cosines`
compares at once in float32 with 2,048, 4,096, … rows, so that its products are the same ones, and more than smaller SAEs have."""


@dataclass(frozen=True)
class Comparisons:
    """What every anchor's latents have in common with the other SAEs; on the CPU."""

    found: list[list[torch.Tensor]]
    """By anchor, for each other SAE in order, the largest cosine of each decoder row, [d_sae], float32."""
    null: list[list[torch.Tensor]]
    """The same of some rows that count, [n], with the other SAE's decoder rotated at random."""


def compare(
    decoders: Sequence[torch.Tensor],
    sample: Sequence[torch.Tensor],
    generator: torch.Generator,
    *,
    ranks: Ranks,
    show_progress: bool,
) -> Comparisons:
    """Compare every SAE as the anchor with all others.

    Each rank makes every `size`-th of the comparisons of two SAEs, and all get all results. With fewer comparisons than ranks it is every
    `size`-th block of 3,072 rows of an anchor. A rank draws the rotations that it does not use as well, so that they do not depend on how
    many ranks there are.

    Args:
        decoders: By SAE, unit decoder rows [d_sae, d_in].
        sample: By SAE, [n], int64, which latents are compared with rotated decoders.
        generator: Draws the rotations; in the same state on every rank.
        ranks: Who divides the work.
        show_progress: Show a bar over this rank's share.
    """
    n = len(decoders)
    rotations = _Rotations(decoders[0].shape[1], generator)
    pairs = [(anchor, other) for other in range(n) for anchor in range(n) if anchor != other]
    block_rows = BLOCK_ROWS if len(pairs) < ranks.size else max(map(len, decoders))
    pieces = [
        (anchor, other, slice(start, start + block_rows))
        for anchor, other in pairs
        for start in range(0, len(decoders[anchor]), block_rows)
    ]
    n_own = len(share_of(pieces, ranks)) + len(share_of(range(n), ranks))
    with tqdm(total=n_own, desc="Comparing", disable=not (show_progress and ranks.is_first)) as progress:

        def compare_rows(piece: tuple[int, int, slice]) -> torch.Tensor:
            anchor, other, rows = piece
            cosines = top_cosines(decoders[anchor][rows], decoders[other]).values[:, 0].cpu()
            progress.update()
            return cosines

        def compare_rotated(other: int) -> list[torch.Tensor]:
            turned = decoders[other] @ rotations.of(other).to(decoders[other].device)
            cosines = [
                top_cosines(decoders[anchor][sample[anchor]], turned).values[:, 0].cpu()
                for anchor in range(n)
                if anchor != other
            ]
            progress.update()
            return cosines

        parts = divided(pieces, compare_rows, ranks, "comparing the SAEs")
        columns = divided(range(n), compare_rotated, ranks, "comparing the SAEs with rotated ones")
    joined: dict[tuple[int, int], list[torch.Tensor]] = {pair: [] for pair in pairs}
    for (anchor, other, _), part in zip(pieces, parts, strict=True):
        joined[anchor, other].append(part)
    return Comparisons(
        found=[[torch.cat(joined[i, other]) for other in range(n) if other != i] for i in range(n)],
        # A column holds the anchors in order, without the rotated SAE itself.
        null=[[columns[other][i - (i > other)] for other in range(n) if other != i] for i in range(n)],
    )


class _Rotations:
    """Random rotations, one for each SAE, drawn in the order of the SAEs; the last one is kept."""

    def __init__(self, dimensions: int, generator: torch.Generator) -> None:
        self._dimensions, self._generator = dimensions, generator
        self._n_drawn = 0
        self._last = torch.empty(0)

    def of(self, i: int) -> torch.Tensor:
        """Give the rotation of the i-th SAE, [d_in, d_in]; to be asked for in ascending order."""
        while self._n_drawn <= i:
            self._last = random_rotation(self._dimensions, self._generator)
            self._n_drawn += 1
        return self._last

"""Which latents `masking_curve` masks: random sets that grow, and stable ones that fire as often as unstable ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sae_lens_ext.analysis.stability.report import STABLE, UNSTABLE
from sae_lens_ext.architectures.validation import require_positive_int

MATCHED = "frequency-matched"
GROUPS = (STABLE, UNSTABLE, MATCHED)
MULTIPLE = 4
"""How many unstable latents the paper masks for each stable one (arXiv 2606.12138)."""


@dataclass(frozen=True, eq=False)
class Masking:
    """Sets of latents of one group, each of which contains the one before."""

    group: str
    """One of `GROUPS`."""
    draw: int
    """Which random order it comes from."""
    counts: tuple[int, ...]
    """Sizes of the sets, ascending."""
    order: torch.Tensor
    """Latents [counts[-1]]: a set of n is the first n of them."""

    def steps(self, d_sae: int) -> torch.Tensor:
        """Give, for each latent [d_sae], the position in `counts` of the first set it is in; len(counts) if it is in none."""
        steps = torch.full((d_sae,), len(self.counts))
        steps[self.order] = torch.bucketize(
            torch.arange(len(self.order)), torch.tensor(self.counts), right=True
        )
        return steps


def mask_counts(counts: Sequence[int] | None, n_stable: int, n_unstable: int) -> tuple[int, ...]:
    """Give how many latents to mask.

    Args:
        counts: What the user gave; None for 1/16, 1/8, 1/4, 1/2, 1, 2 and 4 times the stable latents as far as a group has so many,
            and all unstable latents if these are fewer than 4 times the stable ones.
        n_stable: How many stable latents there are.
        n_unstable: How many unstable ones.

    Returns:
        The counts, each once, ascending, without the 0 that is always measured.

    Raises:
        ValueError: A count is no whole number, or more than either group has; or there is none.
    """
    largest = max(n_stable, n_unstable)
    if counts is None:
        grid = {max(1, n_stable // part) for part in (16, 8, 4, 2, 1)} | {2 * n_stable, MULTIPLE * n_stable}
        return tuple(sorted({n for n in grid if n <= largest} | {min(n_unstable, MULTIPLE * n_stable)}))
    given: Any = np.asarray(counts).tolist()  # a range, an array and a tensor will do as well
    if not isinstance(given, list):
        raise ValueError(
            f"masking_curve was given counts = {counts!r}. Give a sequence of whole numbers, such as (10, 20, 40), or None."
        )
    asked = [n for n in given if n != 0]
    for n in asked:
        require_positive_int(
            "masking_curve",
            "counts",
            n,
            largest,
            f"the latents of the larger class ({n_stable} stable, {n_unstable} unstable)",
        )
    if not asked:
        raise ValueError(
            "masking_curve was given no counts but 0, so that nothing would be masked. Give some of at least 1, or None."
        )
    return tuple(sorted(set(asked)))


def draw_maskings(
    stable: torch.Tensor,
    unstable: torch.Tensor,
    counts: Sequence[int],
    fired: torch.Tensor,
    *,
    n_draws: int,
    seed: int,
) -> list[Masking]:
    """Draw the sets of all groups.

    In a draw the sets of stable and of unstable latents grow in a random order. The control has, for each set of unstable latents,
    one of as many stable latents that fire as often (see `nearest_in_rate`); its sets are each matched anew, and need not contain
    one another. A count that is larger than a group is left out there.

    Args:
        stable: Indices of the stable latents [n].
        unstable: Indices of the unstable ones.
        counts: Sizes of the sets, ascending.
        fired: On how many tokens each latent fires, [d_sae].
        n_draws: How many random orders.
        seed: Which orders.

    Returns:
        Group by group and draw by draw.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Masking]] = {group: [] for group in GROUPS}
    for draw in range(n_draws):
        orders = {
            group: members[torch.randperm(len(members), generator=generator)]
            for group, members in ((STABLE, stable), (UNSTABLE, unstable))
        }
        for group, order in orders.items():
            sizes = tuple(n for n in counts if n <= len(order))
            if sizes:
                found[group].append(Masking(group, draw, sizes, order[: sizes[-1]]))
        for n in counts:
            if n <= min(len(stable), len(unstable)):
                # The candidates come in random order, so that those which fire equally often take turns.
                near = nearest_in_rate(fired[orders[UNSTABLE][:n]], fired[orders[STABLE]])
                found[MATCHED].append(Masking(MATCHED, draw, (n,), orders[STABLE][near]))
    return [masking for group in GROUPS for masking in found[group]]


def nearest_in_rate(targets: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Give each target a candidate of its own, so that Σ |log rate − log rate| is as small as it can be.

    On a line an optimal assignment keeps the order, so that it is found by dynamic programming over the sorted rates, C(i, j) =
    min(C(i, j − 1), C(i − 1, j − 1) + |log t_i − log c_j|), in n·m steps and n·m bytes.

    Args:
        targets: On how many tokens each fires, [n].
        candidates: The same of each candidate, [m], m ≥ n. Of candidates that fire equally often, which are taken follows from
            their order.

    Returns:
        The position of each target's candidate, [n]. A latent that never fires counts as half a firing.
    """
    wanted, offered = (np.log(np.maximum(counts.double().numpy(), 0.5)) for counts in (targets, candidates))
    rows, columns = np.argsort(wanted, kind="stable"), np.argsort(offered, kind="stable")
    offered = offered[columns]
    cost = np.zeros(len(offered) + 1)  # C(0, j): no target needs nothing
    is_best = np.zeros((len(wanted), len(offered)), dtype=bool)
    for i, rate in enumerate(wanted[rows]):
        with_this = cost[:-1] + np.abs(rate - offered)
        best = np.minimum.accumulate(with_this)
        is_best[i] = with_this <= best
        cost = np.concatenate([[np.inf], best])
    partner = np.empty(len(wanted), dtype=np.int64)
    j = len(offered) - 1
    for i in range(len(wanted) - 1, -1, -1):
        while not is_best[i, j]:
            j -= 1
        partner[rows[i]] = columns[j]
        j -= 1
    return torch.from_numpy(partner)

"""The geometry of stable and unstable latents: how many dimensions each class fills, and which of them seeds share.

Unstable latents do not come back one by one, but the space they span may (arXiv 2606.12138): the paper finds their effective rank
lower than that of stable ones, and the main directions of one seed's capture those of another's. Of stable latents the latter goes
without saying, as the other seeds have the same rows. It does of unstable ones that have a partner just below the threshold of
stability: a partner of cosine 0.6 is a main direction that holds much of the row, with no subspace shared. So transfer is also measured
of only those unstable rows that have no near copy in the anchor. Both depend strongly on how many rows there are, so all is measured on as many
rows of each class, beside rows that mean nothing.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.dictionaries import SAESources, decoder_rows, open_saes
from sae_lens_ext.analysis.matching.cosines import top_cosines
from sae_lens_ext.analysis.stability.geometry.effective_rank import Spectrum, second_moment
from sae_lens_ext.analysis.stability.geometry.subspaces_result import (
    CLASSES,
    GROUPS,
    NO_COPY,
    TARGETS,
    SubspaceReport,
)
from sae_lens_ext.analysis.stability.report import STABLE, UNSTABLE, StabilityReport
from sae_lens_ext.analysis.stability.same_saes import LabelledRows, labelled_rows, report_provenance
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.number_checks import require_seed


@torch.no_grad()
def subspace_report(
    saes: SAESources,
    report: StabilityReport,
    *,
    ranks: Sequence[int] | None = None,
    n_draws: int = 10,
    max_partner_cosine: float = 0.4,
    seed: int = 0,
    show_progress: bool = True,
) -> SubspaceReport:
    """Measure how many dimensions stable and unstable latents fill, and how far those of one SAE hold another's.

    n is the smallest class of any SAE. Of each SAE, n of its unstable latents, n of its stable ones, n of any that count and n
    random unit rows are drawn `n_draws` times. Each draw gives an effective rank, and top-r right singular vectors whose energy
    in the other SAEs' classes is measured (`effective_rank`). Transfer is measured for all ordered pairs: by anchor as the mean
    over the other SAEs, each counting alike, and then as mean and deviation over anchors.

    Args:
        saes: The SAEs as `feature_stability` was given them, in that order.
        report: What it found.
        ranks: The r, ascending; by default 1, 2, 4, … up to half of d_in, and up to n. Overcomplete dictionaries span the whole
            space, so that only r ≪ d_in tells classes apart.
        n_draws: How often n rows are drawn. A class of n latents gives the same rows each time.
        max_partner_cosine: Above 0, up to 1. Target "unstable, no copy" is those unstable rows of another SAE whose largest cosine
            with a decoder row of the anchor, of any class, is below it. Its null is r/d still. Rows of a shared subspace of k
            dimensions have cosines of about √(2 ln(rows) / k) by chance: if k is small, none of them is left.
        seed: Of the draws.
        show_progress: Show a progress bar.

    Returns:
        Effective ranks and energies, of each anchor and draw.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: The SAEs are not those of the report, or not of one hook; a class of an SAE has fewer than two latents; ranks
            are not ascending or beyond n or d_in; n_draws is no positive number; max_partner_cosine is out of range.
    """
    caller = "subspace_report"
    named = open_saes(caller, saes)
    require_positive_int(caller, "n_draws", n_draws)
    seed = require_seed(caller, seed)
    _require_cosine(max_partner_cosine)
    anchors = labelled_rows(caller, named, report)
    n = min(len(rows) for labelled in anchors for rows in (labelled.unstable, labelled.stable))
    d_in = anchors[0].any.shape[1]
    chosen = _ranks(ranks, n, d_in)
    moments = {label: torch.stack([second_moment(getattr(a, label)) for a in anchors]) for label in CLASSES}

    shape = (len(anchors), n_draws)
    effective_ranks = {group: torch.empty(shape, dtype=torch.float64) for group in GROUPS}
    drawn = _energies(GROUPS, (*shape, len(chosen)))
    whole = _energies(CLASSES, (len(anchors), len(chosen)))
    own = {label: torch.empty(len(anchors), len(chosen), dtype=torch.float64) for label in CLASSES}
    generator = torch.Generator().manual_seed(seed)
    left: list[tuple[int, ...]] = []
    for anchor, labelled in enumerate(tqdm(anchors, desc="Subspaces", disable=not show_progress)):
        # Energy is linear in the second moment: that of the others' mean is the mean of the others'.
        others = {label: (m.sum(dim=0) - m[anchor]) / (len(m) - 1) for label, m in moments.items()}
        name = tuple(named)[anchor]
        unstable = [a.unstable for i, a in enumerate(anchors) if i != anchor]
        partners = decoder_rows(name, named[name]).cpu()
        others[NO_COPY], n_left = _without_copies(unstable, partners, max_partner_cosine)
        left.append(n_left)
        for draw in range(n_draws):
            for group, rows in _draw(labelled, n, generator).items():
                spectrum = Spectrum.of_moment(second_moment(rows))
                effective_ranks[group][anchor, draw] = spectrum.effective_rank
                for label, moment in others.items():
                    drawn[group, label][anchor, draw] = spectrum.energy(moment, chosen)
        for source in CLASSES:
            spectrum = Spectrum.of_moment(moments[source][anchor])
            own[source][anchor] = spectrum.energy(moments[source][anchor], chosen)
            for label, moment in others.items():
                whole[source, label][anchor] = spectrum.energy(moment, chosen)
    return SubspaceReport(
        names=tuple(named),
        d_in=d_in,
        n_rows=n,
        ranks=chosen,
        sizes={label: tuple(len(getattr(a, label)) for a in anchors) for label in CLASSES},
        effective_ranks=effective_ranks,
        energies=drawn,
        energies_all=whole,
        ceilings=own,
        max_partner_cosine=max_partner_cosine,
        no_copy_rows=tuple(left),
        notes=(*report.notes, *_notes(n, d_in), *_no_copy_notes(tuple(named), left, max_partner_cosine)),
        provenance=report_provenance(
            report, n_draws=n_draws, max_partner_cosine=max_partner_cosine, seed=seed
        ),
    )


def _draw(labelled: LabelledRows, n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw n rows of each group, [n, d_in], in the order of GROUPS."""
    found: dict[str, torch.Tensor] = {}
    for group, rows in ((UNSTABLE, labelled.unstable), (STABLE, labelled.stable), ("any", labelled.any)):
        found[group] = rows[torch.randperm(len(rows), generator=generator)[:n]]
    random = torch.randn(n, labelled.any.shape[1], generator=generator)
    return {**found, "random": torch.nn.functional.normalize(random, dim=1)}


def _without_copies(
    unstable: Sequence[torch.Tensor], partners: torch.Tensor, max_cosine: float
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Leave out the rows of other SAEs that have a near copy in the anchor.

    Args:
        unstable: Unstable rows of each other SAE, [n, d_in].
        partners: All decoder rows of the anchor, [d_sae, d_in].
        max_cosine: Rows are left whose largest cosine with those is below it.

    Returns:
        The second moment of the rows left, mean over SAEs that have any, [d_in, d_in]; NaN if none has. How many are left of each.
    """
    left = [rows[top_cosines(rows, partners).values[:, 0] < max_cosine] for rows in unstable]
    moments = [second_moment(rows) for rows in left if len(rows) > 0]
    d_in = partners.shape[1]
    nothing = torch.full((d_in, d_in), math.nan, dtype=torch.float64)
    return torch.stack(moments).mean(dim=0) if moments else nothing, tuple(map(len, left))


def _energies(sources: Sequence[str], shape: tuple[int, ...]) -> dict[tuple[str, str], torch.Tensor]:
    return {
        (source, target): torch.empty(shape, dtype=torch.float64) for source in sources for target in TARGETS
    }


def _ranks(ranks: Sequence[int] | None, n: int, d_in: int) -> tuple[int, ...]:
    largest = min(n, d_in)
    if ranks is None:
        return tuple(2**i for i in range(d_in.bit_length()) if 2**i <= max(1, min(n, d_in // 2)))
    if isinstance(ranks, str) or not isinstance(ranks, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"subspace_report.ranks = {ranks!r} is no list. Give whole numbers such as (1, 2, 4, 8)."
        )
    chosen: tuple[Any, ...] = tuple(ranks)
    whole = all(isinstance(r, int) and not isinstance(r, bool) for r in chosen)
    if not chosen or not whole or list(chosen) != sorted(set(chosen)):
        raise ValueError(
            f"subspace_report.ranks = {ranks!r} is no ascending list of whole numbers. Give such as (1, 2, 4, 8)."
        )
    if chosen[0] < 1 or chosen[-1] > largest:
        raise ValueError(
            f"subspace_report.ranks = {ranks!r} is out of range. {n} rows (the smallest class of any SAE) in d_in = {d_in} dimensions have singular "
            f"vectors 1 to {largest}: give ranks of those."
        )
    return chosen


def _require_cosine(max_partner_cosine: Any) -> None:
    number = isinstance(max_partner_cosine, int | float) and not isinstance(max_partner_cosine, bool)
    if not number or not 0 < max_partner_cosine <= 1:
        raise ValueError(
            f"subspace_report.max_partner_cosine = {max_partner_cosine!r} is out of range. Give a cosine above 0, at most 1, such as 0.4."
        )


def _no_copy_notes(
    names: Sequence[str], left: Sequence[tuple[int, ...]], max_cosine: float
) -> tuple[str, ...]:
    none = [repr(name) for name, n_left in zip(names, left, strict=True) if not any(n_left)]
    if not none:
        return ()
    return (
        f"no rows without near copies: every unstable latent of the other SAEs has a cosine of at least {max_cosine:g} with a decoder row of "
        f"{', '.join(none)}, so that energy in {NO_COPY!r} is NaN",
    )


def _notes(n: int, d_in: int) -> tuple[str, ...]:
    if n >= d_in:
        return ()
    return (
        f"few rows: the smallest class has {n:,} latents in d_in = {d_in:,} dimensions, so that ER/d is at most {n / d_in:.2g} for all, and differences "
        "of classes are compressed",
    )

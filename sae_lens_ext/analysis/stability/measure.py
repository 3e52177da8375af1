"""Which features come back when an SAE is trained again: p̂ of every latent, with every SAE as the anchor, and what chance gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sae_lens import SAE
from tqdm.auto import tqdm

from sae_lens_ext.analysis.dictionaries import (
    SAESources,
    decoder_rows,
    encoder_rows,
    open_saes,
    require_folded,
    require_no_twins,
    require_same_site,
    require_threshold,
)
from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.analysis.stability.comparisons import compare
from sae_lens_ext.analysis.stability.firing import FiringRates, firing_floor, rates_of
from sae_lens_ext.analysis.stability.pairs import Pairs, pair_measures, pairs_to_match
from sae_lens_ext.analysis.stability.report import PairMeasures, StabilityReport
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.number_checks import require_seed
from sae_lens_ext.ranks import Ranks, current_ranks, divided, share_of

NULL_LATENTS = 512
"""Latents of each anchor that are compared with rotated decoders, at most."""
COARSE_BELOW = 5
"""Fewer other SAEs than these make p̂ coarse enough to say so."""
ALL_OR_NONE_BELOW = 20
"""With fewer other SAEs than these, p̂ ≥ 0.95 is all of them and p̂ ≤ 0.05 none."""
MANY_EXCLUDED = 0.05
"""Share of latents that fire but do not count, from which on a report says so."""


@torch.no_grad()
def feature_stability(
    saes: SAESources,
    *,
    threshold: float = 0.7,
    min_firing_rate: float | None = None,
    firing_rates: FiringRates | Sequence[torch.Tensor] | Mapping[str, torch.Tensor] | None = None,
    pairs: Pairs | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> StabilityReport:
    """Measure which latents of each SAE come back in the others (arXiv 2606.12138, Eq. 3-4).

    A latent of the anchor matches another SAE if some decoder row there has a cosine of at least θ with its own; several latents may
    match one row, and the sign counts. p̂ is the share of the other SAEs that it matches. Each SAE is the anchor in turn, so that
    every share has an error bar.

    For 0.7 to mean something: latents that hardly ever fire keep the direction they began with, and do not count if `firing_rates` are
    given; the same comparison with randomly rotated decoders is beside every number (`null_match_rate`, `chance_maximum`); an SAE
    given twice is an error. The SAEs must differ in their initialisation, as `train_seeds` makes them: a shared one makes anything
    look stable.

    Beside p̂ stand other measures of agreement, see `PairMeasures`. No more than some chunks of cosines are held in memory.

    In a job of several ranks (`torchrun`) each compares and matches its share of the pairs, on the devices its SAEs are on, and all give
    the same report, to the bit that of one process on such a device. Each must be given the same SAEs, and opens all of them. Where there
    are fewer comparisons than ranks, anchors are divided by blocks of rows: then the report is the same to the bit on CPUs that compare in
    float32, for SAEs of one width that is a power of two, and to rounding otherwise.

    Args:
        saes: Two or more: SAEs, folders they are saved in, or (release, sae_id), in a row or by name. Training SAEs are taken in
            their inference form. They may have different d_sae.
        threshold: θ, above 0 and at most 1.
        min_firing_rate: The least share of tokens on which a latent must fire to count; by default 100 firings in the tokens that
            `measure_firing_rates` read, and where rates without a number of tokens are given, any firing at all.
        firing_rates: What `measure_firing_rates` found, or a tensor [d_sae] for each SAE, in the same order or by the same names.
            Without them every latent with a decoder row counts.
        pairs: Which pairs of SAEs are matched one to one: "all"; or a "ring", in which each SAE is in two pairs, which is much less work
            with many SAEs of many latents. By default all up to 2,048 latents, and a ring beyond. p̂ always compares all.
        seed: Draws the rotations and the latents of the null.
        show_progress: Show a progress bar.

    Returns:
        p̂ of every latent with every SAE as the anchor, labels, null, and the measures of the pairs that were matched.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: There are fewer than two SAEs, or one twice; they have different d_in, hooks or models; one has a normalisation that
            was not folded; a weight is NaN or infinite;
            firing rates are missing, of the wrong length or not from 0 to 1; a threshold, floor or choice of pairs is out of range; a
            floor is given without firing rates; no latent of an SAE counts.
    """
    seed = require_seed("feature_stability", seed)
    require_threshold("feature_stability", threshold)
    opened = open_saes("feature_stability", saes)
    require_same_site("feature_stability", opened)
    require_folded("feature_stability", opened)
    matched = pairs_to_match([sae.cfg.d_sae for sae in opened.values()], pairs)
    rows = {name: decoder_rows(name, sae) for name, sae in opened.items()}
    require_no_twins("feature_stability", rows)
    rates = rates_of(firing_rates, opened)
    floor = firing_floor(min_firing_rate, firing_rates)
    included = tuple(
        _included(name, row, None if rates is None else rates[i], floor)
        for i, (name, row) in enumerate(rows.items())
    )
    decoders = list(rows.values())
    encoders = [encoder_rows(name, sae) for name, sae in opened.items()]
    generator = torch.Generator().manual_seed(seed)
    sample = [_sample(kept, generator).to(rows.device) for kept, rows in zip(included, decoders, strict=True)]
    ranks = current_ranks()
    compared = compare(decoders, sample, generator, ranks=ranks, show_progress=show_progress)
    n_matched = len(share_of(matched, ranks))
    with tqdm(
        total=n_matched, desc="Matching one to one", disable=not (show_progress and ranks.is_first)
    ) as progress:

        def measure(pair: tuple[int, int]) -> PairMeasures:
            measures = pair_measures(pair, decoders, encoders, compared.found, included, threshold)
            progress.update()
            return measures

        measured = tuple(divided(matched, measure, ranks, "matching the SAEs one to one"))
    return StabilityReport(
        names=tuple(opened),
        threshold=threshold,
        max_cosines=tuple(torch.stack(cosines) for cosines in compared.found),
        null_cosines=tuple(torch.stack(cosines) for cosines in compared.null),
        included=included,
        pairs=measured,
        firing_rates=rates,
        min_firing_rate=floor,
        links=tuple(sae.cfg.metadata.neuronpedia_id for sae in opened.values()),
        notes=(
            *_notes_on_seeds(opened),
            *_notes_on_number(len(opened), len(matched)),
            *_notes_on_firing(rates, included, floor),
        ),
        provenance=_provenance(opened, firing_rates, seed, ranks),
    )


def _included(name: str, rows: torch.Tensor, rates: torch.Tensor | None, floor: float) -> torch.Tensor:
    kept = (rows != 0).any(dim=1).cpu()
    if rates is not None:
        kept &= (rates > 0) & (rates >= floor)
    if not kept.any():
        raise ValueError(
            f"No latent of the SAE {name!r} counts: none has a decoder row and fires on at least {floor:.2g} of the tokens. Measure the firing "
            "rates on more text, or give a smaller min_firing_rate."
        )
    return kept


def _sample(kept: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    indices = kept.nonzero().flatten()
    return indices[torch.randperm(len(indices), generator=generator)[:NULL_LATENTS]].sort().values


def _notes_on_seeds(opened: Mapping[str, SAE[Any]]) -> list[str]:
    seeds = [
        (sae.cfg.architecture(), sae.cfg.d_sae, sae.cfg.metadata.initialisation_seed)
        for sae in opened.values()
    ]
    known = [seed for seed in seeds if seed[2] is not None]
    if len(set(known)) == len(known):
        return []
    return ["some of these SAEs began with the same weights, which makes them look stable"]


def _notes_on_number(n_saes: int, n_matched: int) -> list[str]:
    notes: list[str] = []
    n = n_saes - 1
    if n < COARSE_BELOW:
        steps = ", ".join(f"{i}/{n}" if 0 < i < n else str(i // n) for i in range(n + 1))
        notes.append(f"coarse: with {n} other SAE{'' if n == 1 else 's'}, p̂ can only be {steps}")
    elif n < ALL_OR_NONE_BELOW:
        notes.append(f"stable is: in all {n} others, unstable: in none")
    n_pairs = n_saes * n // 2
    if n_matched < n_pairs:
        notes.append(f"matched one to one: {n_matched} of {n_pairs} pairs, a ring")
    return notes


def _notes_on_firing(
    rates: Sequence[torch.Tensor] | None, included: Sequence[torch.Tensor], floor: float
) -> list[str]:
    if rates is None:
        return ["no firing rates were given, so that dead and rare latents count and look unstable"]
    left_out = torch.cat([(rate > 0) & ~kept for rate, kept in zip(rates, included, strict=True)])
    share = float(left_out.float().mean())
    if share < MANY_EXCLUDED:
        return []
    return [f"{share:.0%} of the latents fire, but on fewer than {floor:.2%} of the tokens, and do not count"]


def _provenance(opened: Mapping[str, SAE[Any]], firing_rates: Any, seed: int, ranks: Ranks) -> dict[str, Any]:
    fingerprints = divided(list(opened.values()), weights_fingerprint, ranks, "identifying the SAEs")
    metadata = [sae.cfg.metadata for sae in opened.values()]

    def first(name: str) -> Any:
        return next((own[name] for own in metadata if own[name] is not None), None)

    return {
        **versions(),
        "model_name": first("model_name"),
        "hook_name": first("hook_name"),
        "dataset_path": first("dataset_path"),
        "architectures": sorted({sae.cfg.architecture() for sae in opened.values()}),
        "sae_fingerprints": dict(zip(opened, fingerprints, strict=True)),
        "initialisation_seeds": [own.initialisation_seed for own in metadata],
        "data_order_seeds": [own.data_order_seed for own in metadata],
        "firing_rates": dict(firing_rates.provenance) if isinstance(firing_rates, FiringRates) else None,
        "seed": seed,
    }

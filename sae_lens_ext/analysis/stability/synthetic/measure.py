"""Measuring what SAEs recovered of a LowRankFeatureModel: their latents against the true features, group by group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_ext.analysis.dictionaries import SAESources, decoder_rows, open_saes
from sae_lens_ext.analysis.matching.cosines import top_cosines
from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.analysis.stability.firing import firing_rates_on
from sae_lens_ext.analysis.stability.report import StabilityReport
from sae_lens_ext.analysis.stability.rotations import random_rotation
from sae_lens_ext.analysis.stability.same_saes import require_report_saes
from sae_lens_ext.analysis.stability.synthetic.model import (
    GROUPS,
    LOW_RANK,
    LowRankFeatureModel,
)
from sae_lens_ext.analysis.stability.synthetic.recovery import FeatureRecovery, GroupRecovery
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.validation import require_positive_int

_CALLER = "LowRankFeatureModel.recovery"
_MEMBER_FROM = 0.5
"""A latent with more energy than this in span(B) belongs to the low-rank group."""


@torch.no_grad()
def measure_recovery(
    model: LowRankFeatureModel,
    saes: SAESources,
    report: StabilityReport | None,
    *,
    n_samples: int,
    seed: int,
) -> FeatureRecovery:
    """Do the work of `LowRankFeatureModel.recovery`, which see."""
    require_positive_int(_CALLER, "n_samples", n_samples)
    opened = open_saes(_CALLER, saes)
    _require_width(model, opened)
    if report is not None:
        require_report_saes(_CALLER, opened, report)
    rates = firing_rates_on(opened, model.sample(n_samples, seed)).rates
    generator = torch.Generator().manual_seed(seed)
    dictionaries: list[_Dictionary] = []
    for i, (name, sae) in enumerate(opened.items()):
        counts = rates[i] > 0
        if report is not None:
            counts &= report.included[i]
        _require_some(name, counts, n_samples)
        rows = decoder_rows(name, sae).cpu()
        dictionaries.append(_Dictionary(name, rows, rows @ _turn(model, generator), counts))
    measurements: list[GroupRecovery] = []
    for anchor, own in enumerate(dictionaries):
        p_hat = null_p_hat = None
        if report is not None:
            p_hat = report.reappearance[anchor]
            others = [other for other in dictionaries if other is not own]
            null_p_hat = _null_reappearance(own, others, report.threshold)
        measurements += [_measured(model, own, group, p_hat, null_p_hat) for group in GROUPS]
    return FeatureRecovery(
        model=model,
        measurements=tuple(measurements),
        threshold=None if report is None else report.threshold,
        provenance={
            **versions(),
            "n_samples": n_samples,
            "seed": seed,
            "architectures": sorted({sae.cfg.architecture() for sae in opened.values()}),
            "sae_fingerprints": {name: weights_fingerprint(sae) for name, sae in opened.items()},
            "stability_report": None if report is None else dict(report.provenance),
        },
    )


@dataclass(frozen=True, eq=False)
class _Dictionary:
    """The decoder of one SAE, on the CPU."""

    name: str
    rows: torch.Tensor
    """[d_sae, d_in], of unit length."""
    turned: torch.Tensor
    """[d_sae, d_in]: the same turned at random within span(B) and within what is orthogonal to it."""
    counts: torch.Tensor
    """[d_sae], bool: latents that count."""


def _measured(
    model: LowRankFeatureModel,
    own: _Dictionary,
    group: str,
    p_hat: torch.Tensor | None,
    null_p_hat: torch.Tensor | None,
) -> GroupRecovery:
    energy = (own.rows @ model.low_rank_basis.T).square().sum(dim=1)
    members = own.counts & ((energy > _MEMBER_FROM) == (group == LOW_RANK))
    truth = model.features[torch.from_numpy(model.groups == group)]
    return GroupRecovery(
        sae=own.name,
        group=group,
        n_latents=int(members.sum()),
        reappearance=_mean_of(p_hat, members),
        null_reappearance=_mean_of(null_p_hat, members),
        truth_cosine=float(top_cosines(truth, own.rows[own.counts]).values.mean()),
        null_truth_cosine=float(top_cosines(truth, own.turned[own.counts]).values.mean()),
        latent_cosine=_mean_of(top_cosines(own.rows, model.features).values[:, 0], members),
        null_latent_cosine=_mean_of(top_cosines(own.turned, model.features).values[:, 0], members),
        projection_energy=_mean_of(energy, members),
    )


def _null_reappearance(own: _Dictionary, others: Sequence[_Dictionary], threshold: float) -> torch.Tensor:
    """Give the p̂ [d_sae] that an SAE's latents have against the others' turned decoders."""
    cosines = [top_cosines(own.rows, other.turned).values[:, 0] for other in others]
    return (torch.stack(cosines) >= threshold).float().mean(dim=0)


def _turn(model: LowRankFeatureModel, generator: torch.Generator) -> torch.Tensor:
    """Draw an orthogonal matrix [d_in, d_in] that maps span(B) onto itself."""
    parts = (model.low_rank_basis, model.complement_basis)
    return sum((basis.T @ random_rotation(len(basis), generator) @ basis for basis in parts), torch.zeros(()))


def _mean_of(values: torch.Tensor | None, members: torch.Tensor) -> float | None:
    return None if values is None or not members.any() else float(values[members].mean())


def _require_width(model: LowRankFeatureModel, saes: Mapping[str, SAE[Any]]) -> None:
    for name, sae in saes.items():
        if sae.cfg.d_in != model.d_in or sae.W_dec.shape[1] != model.d_in:
            raise ValueError(
                f"{_CALLER} was given {name!r}, which reads d_in = {sae.cfg.d_in} and writes {sae.W_dec.shape[1]}, but the activations of this model "
                f"have d_in = {model.d_in}. Give SAEs that were trained on its batches."
            )


def _require_some(name: str, counts: torch.Tensor, n_samples: int) -> None:
    if not counts.any():
        raise ValueError(
            f"No latent of the SAE {name!r} fires on any of {n_samples:,} activations of this model and counts in the report, so that there is nothing "
            "to compare with the true features. Give SAEs that were trained on its batches, or more n_samples."
        )

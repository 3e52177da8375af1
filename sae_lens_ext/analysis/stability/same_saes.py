"""The SAEs that a StabilityReport is of: what analyses of its classes are given again, and check first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_ext.analysis.dictionaries import decoder_rows, require_same_site
from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.analysis.stability.report import EXCLUDED, STABLE, UNSTABLE, StabilityReport
from sae_lens_ext.architectures.identity import weights_fingerprint

FEWEST = 2
"""A class of fewer latents has no geometry."""


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Decoder rows of one SAE, by class; unit length, float32, on the CPU."""

    unstable: torch.Tensor
    """[n_unstable, d_in]: latents with p̂ ≤ 0.05."""
    stable: torch.Tensor
    """[n_stable, d_in]: latents with p̂ ≥ 0.95."""
    any: torch.Tensor
    """[n, d_in]: all latents that count, those between the classes too."""


def require_report_saes(caller: str, saes: Mapping[str, SAE[Any]], report: StabilityReport) -> None:
    """Raise ValueError unless these are the SAEs that a report is of, in its order.

    Compared are how many there are, each one's d_sae and, where the report's provenance has fingerprints, its weights. Names
    may differ: a folder may have been renamed.

    Args:
        caller: Function the SAEs were given to, for messages.
        saes: The SAEs by name.
        report: What `feature_stability` found.
    """
    if not isinstance(report, StabilityReport):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"{caller} was given {type(report).__name__} as report. Give the StabilityReport that feature_stability found of these SAEs."
        )
    again = "Give the SAEs that feature_stability was given, in that order, or measure these with it."
    if len(saes) != len(report.names):
        raise ValueError(
            f"{caller} was given {len(saes)} SAEs ({', '.join(saes)}) with a report of {len(report.names)} ({', '.join(report.names)}). {again}"
        )
    for (name, sae), reported, included in zip(saes.items(), report.names, report.included, strict=True):
        if sae.cfg.d_sae != len(included):
            raise ValueError(
                f"{caller} was given {name!r} with d_sae = {sae.cfg.d_sae} where the report has {reported!r} with {len(included)} latents. {again}"
            )
        known = mistaken_for(weights_fingerprint(sae), reported, report)
        if known is not None:
            what = f"It is the report's {known[0]!r}." if known else "It is none of the report's SAEs."
            raise ValueError(
                f"{caller} was given {name!r} where the report has {reported!r}, and its weights are others. {what} {again}"
            )


def mistaken_for(fingerprint: str, reported: str, report: StabilityReport) -> tuple[str, ...] | None:
    """Say whether an SAE is another than a report has under a name.

    Args:
        fingerprint: The SAE's `weights_fingerprint`.
        reported: The name in the report.
        report: What `feature_stability` found.

    Returns:
        None if it is that SAE, or the report does not say; else the report's names of it, empty if it has none.
    """
    fingerprints: Mapping[str, str] = report.provenance.get("sae_fingerprints", {})
    if fingerprints.get(reported, fingerprint) == fingerprint:
        return None
    return tuple(other for other, known in fingerprints.items() if known == fingerprint)


def labelled_rows(
    caller: str, saes: Mapping[str, SAE[Any]], report: StabilityReport
) -> tuple[LabelledRows, ...]:
    """Give the decoder rows of every SAE by the report's classes.

    Args:
        caller: Function the SAEs were given to, for messages.
        saes: The report's SAEs, by name, in its order.
        report: What `feature_stability` found.

    Returns:
        The rows by anchor.

    Raises:
        ValueError: The SAEs are not those of the report, or not of one hook; a class of an anchor has fewer than two latents; a
            latent that counts has a decoder row of zeros, or of NaN.
    """
    require_same_site(caller, saes)
    require_report_saes(caller, saes, report)
    found: list[LabelledRows] = []
    for anchor, (name, sae) in enumerate(saes.items()):
        rows, labels = decoder_rows(name, sae).cpu(), report.labels(anchor)
        for label in (UNSTABLE, STABLE):
            if (n := int((labels == label).sum())) < FEWEST:
                raise ValueError(
                    f"{caller} compares the {UNSTABLE} with the {STABLE} latents of every SAE, but {name!r} has {n} that {'is' if n == 1 else 'are'} "
                    f"{label}, of {len(labels):,} ({int((labels == EXCLUDED).sum()):,} of them excluded). Give at least {FEWEST} of each: another "
                    "threshold or min_firing_rate in feature_stability, more or fewer seeds, or SAEs of more latents."
                )
        counted = torch.from_numpy(labels != EXCLUDED)
        empty = counted & (rows == 0).all(dim=1)
        if empty.any():
            raise ValueError(
                f"{caller}: the latent {int(empty.nonzero()[0])} of {name!r} counts in the report, but its decoder row is 0. The report is of other SAEs: "
                "measure these with feature_stability."
            )
        by_label = {label: rows[torch.from_numpy(labels == label)] for label in (UNSTABLE, STABLE)}
        found.append(LabelledRows(by_label[UNSTABLE], by_label[STABLE], rows[counted]))
    return tuple(found)


def report_provenance(report: StabilityReport, **own: Any) -> dict[str, Any]:
    """Say where the numbers of an analysis of a report's classes come from.

    Args:
        report: What `feature_stability` found.
        own: The analysis' own settings.

    Returns:
        All that the report's provenance says, its seed as `stability_seed`; what decided the classes; the versions now; and `own`.
    """
    return {
        **report.provenance,
        "stability_seed": report.provenance.get("seed"),
        "threshold": report.threshold,
        "min_firing_rate": report.min_firing_rate,
        **versions(),
        **own,
    }

"""Can instability be read off the decoder? A linear probe learnt on one seed and tried on the others (arXiv 2606.12138).

The paper reports F1 of 0.67 to 0.73 for unstable latents of other seeds; on what mix of classes is not said. On as many of both,
answering "unstable" to everything already gives 2/3, so that every score stands beside that one and beside probes learnt from
shuffled labels.
"""

import math
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from tqdm.auto import tqdm

from sae_lens_ext.analysis.stability.dictionaries import SAESources, open_saes
from sae_lens_ext.analysis.stability.geometry.logistic import Array, LogisticModel, fit_logistic
from sae_lens_ext.analysis.stability.geometry.probe_result import ProbeScore, StabilityProbe
from sae_lens_ext.analysis.stability.report import StabilityReport
from sae_lens_ext.analysis.stability.same_saes import LabelledRows, labelled_rows, report_provenance
from sae_lens_ext.architectures.validation import require_positive_int


@torch.no_grad()
def stability_probe(
    saes: SAESources,
    report: StabilityReport,
    *,
    l2: float = 0.1,
    n_shuffles: int = 5,
    seed: int = 0,
    show_progress: bool = True,
) -> StabilityProbe:
    """Learn on each SAE to tell unstable latents from stable ones by their decoder rows, and try it on the others.

    A logistic regression with both classes weighted alike (`logistic`) reads unit decoder rows times √d_in, whose components are of
    unit size on average. Components are not standardised one by one: so the penalty, and with it every score, is the same in any
    orthonormal basis of the space. A linear probe sees where a class points on average; a class that fills a subspace in all
    directions alike escapes it (see `subspace_report`).

    Args:
        saes: The SAEs as `feature_stability` was given them, in that order.
        report: What it found.
        l2: Strength of the penalty on the weights, against a loss that is the mean of both classes' mean. Too small a one lets a probe
            learn its seed by heart: compare "own" with "others" (`StabilityProbe.measure`).
        n_shuffles: Probes per SAE that are learnt from its labels in random order.
        seed: Of the shuffles.
        show_progress: Show a progress bar.

    Returns:
        Scores of every probe on every SAE, and the probes.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: The SAEs are not those of the report, or not of one hook; a class of an SAE has fewer than two latents; l2 or
            n_shuffles is out of range; the regression does not come to an end.
    """
    caller = "stability_probe"
    named = open_saes(caller, saes)
    require_positive_int(caller, "n_shuffles", n_shuffles)
    _require_penalty(l2)
    samples = [_samples(labelled) for labelled in labelled_rows(caller, named, report)]
    generator = torch.Generator().manual_seed(seed)
    probes: list[LogisticModel] = []
    scores: list[ProbeScore] = []
    progress = tqdm(total=len(samples) * (1 + n_shuffles), desc="Probing", disable=not show_progress)
    for trained_on, (x, y) in enumerate(samples):
        probes.append(fit_logistic(x, y, l2=l2))
        progress.update()
        for tested_on, sample in enumerate(samples):
            scores.append(_score(probes[-1], trained_on, tested_on, None, *sample))
        for shuffle in range(n_shuffles):
            order = torch.randperm(len(y), generator=generator).numpy()
            shuffled = fit_logistic(x, y[order], l2=l2)
            progress.update()
            for tested_on, sample in enumerate(samples):
                if tested_on != trained_on:
                    scores.append(_score(shuffled, trained_on, tested_on, shuffle, *sample))
    progress.close()
    scale = math.sqrt(samples[0][0].shape[1])
    return StabilityProbe(
        names=tuple(named),
        scores=tuple(scores),
        weights=torch.from_numpy(np.stack([probe.weights for probe in probes])) * scale,
        biases=torch.tensor([probe.bias for probe in probes], dtype=torch.float64),
        notes=report.notes,
        provenance=report_provenance(report, l2=l2, n_shuffles=n_shuffles, seed=seed),
    )


def _samples(labelled: LabelledRows) -> tuple[Array, Array]:
    """Give what a probe reads, [n, d_in], and 1 for unstable, 0 for stable, [n]."""
    x = torch.cat([labelled.unstable, labelled.stable]).double().numpy()
    y = np.zeros(len(x))
    y[: len(labelled.unstable)] = 1
    return x * math.sqrt(x.shape[1]), y


def _score(
    probe: LogisticModel, trained_on: int, tested_on: int, shuffle: int | None, x: Array, y: Array
) -> ProbeScore:
    logits = probe.logits(x)
    called, unstable = logits > 0, y == 1
    return ProbeScore(
        trained_on=trained_on,
        tested_on=tested_on,
        shuffle=shuffle,
        true_positives=int((called & unstable).sum()),
        false_positives=int((called & ~unstable).sum()),
        false_negatives=int((~called & unstable).sum()),
        true_negatives=int((~called & ~unstable).sum()),
        auc=_auc(logits, unstable),
    )


def _auc(logits: Array, positive: "np.ndarray[Any, np.dtype[np.bool_]]") -> float:
    """Give the area under the ROC curve from the rank sum of the positives (Mann-Whitney), ties counting half."""
    n = int(positive.sum())
    above = float(rankdata(logits)[positive].sum()) - n * (n + 1) / 2
    return above / (n * (len(positive) - n))


def _require_penalty(l2: Any) -> None:
    if isinstance(l2, bool) or not isinstance(l2, (int, float)) or not 0 < l2 < math.inf:
        raise ValueError(
            f"stability_probe was given l2 = {l2!r}. Give a number above 0, such as 0.1: without a penalty, classes that a plane separates have no "
            "best probe."
        )

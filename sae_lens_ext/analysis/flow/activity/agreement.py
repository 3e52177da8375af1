"""Whether the origin that scores give a feature is the one that activity gives it."""

import numpy as np
import torch

from sae_lens_ext.analysis.flow.activity.agreement_result import OriginAgreement
from sae_lens_ext.analysis.flow.activity.groups import origins_by_activity
from sae_lens_ext.analysis.flow.activity.kappa import (
    interval,
    kappa_with_all,
    resampling_weights,
    shuffled_confusions,
)
from sae_lens_ext.analysis.flow.activity.result import PredecessorActivity
from sae_lens_ext.analysis.flow.origins import ORIGINS
from sae_lens_ext.architectures.validation import require_positive_int

_TOLERANCE = 1e-12
"""Kappas that differ by less are equal but for rounding."""


def origin_agreement(
    activity: PredecessorActivity,
    *,
    n_resamples: int = 1000,
    n_shuffles: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> OriginAgreement:
    """Compare origins by scores with origins by activity, at every drawn token.

    By scores, origins are those of the activity's thresholds (`activity.with_thresholds(...)` gives others). By activity: R alone is
    translated, R with M or A processed, M or A without R newborn, from nowhere unexplained. Our measure; the paper (arXiv 2502.03032) tests
    scores between groups instead.

    Two things vary. Tokens of one text are not independent: the bootstrap intervals resample samples (contexts) with replacement, as
    many of each text as were read. They hold for these features. And a score belongs to a feature, whose occurrences are counted again and
    again: what chance gives is therefore found by shuffling the origins by scores among a layer's features that occur, each keeping all its
    occurrences. Kappa is beyond chance where it is above `chance_interval`; that its bootstrap interval leaves out 0 is not enough.

    Args:
        activity: What `predecessor_activity` found.
        n_resamples: Resamplings of the samples.
        n_shuffles: Shufflings of the features' origins.
        confidence: Coverage of the intervals.
        seed: Of both.

    Raises:
        ValueError: A number is out of range.
    """
    require_positive_int("origin_agreement", "n_resamples", n_resamples)
    require_positive_int("origin_agreement", "n_shuffles", n_shuffles)
    if isinstance(confidence, bool) or not 0 < confidence < 1:
        raise ValueError(
            f"origin_agreement was given confidence = {confidence!r}. Give a coverage between 0 and 1, such as 0.95."
        )
    rng = np.random.default_rng(seed)
    by_scores = [
        np.array([ORIGINS.index(label) for label in activity.origins[hook].labels]) for hook in activity.hooks
    ]
    by_sample = _by_sample(activity, by_scores)
    confusion = by_sample.sum(axis=0)
    agreement, chance, kappa = kappa_with_all(confusion)

    weights = resampling_weights(list(activity.text_sizes.values()), n_resamples, rng)
    resampled = (weights @ by_sample.reshape(len(by_sample), -1)).reshape(n_resamples, *confusion.shape)
    agreement_again, _, kappa_again = kappa_with_all(resampled)
    shuffled = np.stack(
        [
            shuffled_confusions(labels, counts, n_shuffles, rng)
            for labels, counts in zip(by_scores, _by_feature(activity), strict=True)
        ],
        axis=1,
    )
    _, _, kappa_by_chance = kappa_with_all(shuffled)
    as_large = (kappa_by_chance >= kappa - _TOLERANCE).sum(axis=0)
    return OriginAgreement(
        layers=activity.layers,
        confusion=torch.as_tensor(np.concatenate([confusion, confusion.sum(axis=0, keepdims=True)])),
        agreement=torch.as_tensor(agreement),
        chance=torch.as_tensor(chance),
        kappa=torch.as_tensor(kappa),
        agreement_interval=torch.as_tensor(interval(agreement_again, confidence)),
        kappa_interval=torch.as_tensor(interval(kappa_again, confidence)),
        chance_interval=torch.as_tensor(interval(kappa_by_chance, confidence)),
        p=torch.as_tensor(np.where(np.isnan(kappa), np.nan, (1 + as_large) / (1 + n_shuffles))),
        confidence=float(confidence),
        n_samples=len(by_sample),
        provenance={
            **activity.provenance,
            "thresholds": activity.origins[activity.hooks[0]].thresholds.to_dict(),
            "n_resamples": n_resamples,
            "n_shuffles": n_shuffles,
            "agreement_seed": seed,
        },
    )


def _by_sample(activity: PredecessorActivity, by_scores: list[np.ndarray]) -> np.ndarray:
    """Give the confusion of each sample and layer, [n_samples, n_layers, 4, 4], int64."""
    own = activity.occurrences
    hook, feature = own.hook.numpy(), own.feature.numpy()
    labels = np.empty(len(feature), dtype=np.int64)
    for i, of_hook in enumerate(by_scores):
        labels[hook == i] = of_hook[feature[hook == i]]
    shape = (sum(activity.text_sizes.values()), len(by_scores), 4, 4)
    cell = np.ravel_multi_index(
        (own.context.numpy(), hook, labels, origins_by_activity(own.group).numpy()), shape
    )
    return np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)


def _by_feature(activity: PredecessorActivity) -> list[np.ndarray]:
    """Give by layer how often each feature has each origin by activity, [d_sae, 4], int64."""
    own = activity.occurrences
    found: list[np.ndarray] = []
    for i, hook in enumerate(activity.hooks):
        here = (own.hook == i).numpy()
        shape = (len(activity.origins[hook].labels), 4)
        cell = np.ravel_multi_index(
            (own.feature.numpy()[here], origins_by_activity(own.group).numpy()[here]), shape
        )
        found.append(np.bincount(cell, minlength=shape[0] * 4).reshape(shape))
    return found

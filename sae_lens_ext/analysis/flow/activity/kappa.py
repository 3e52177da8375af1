"""Agreement beyond chance: Cohen's kappa, over strata too, and how it varies when samples are drawn again."""

import numpy as np


def cohens_kappa(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give agreement, chance and Cohen's kappa of confusion tables [..., n, n], each [...], float64; NaN where undefined."""
    counts = np.asarray(confusion, dtype=np.float64)
    total = counts.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        agreement = np.trace(counts, axis1=-2, axis2=-1) / total
        chance = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1) / total**2
    return agreement, chance, _beyond(agreement, chance)


def kappa_with_all(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Do as `cohens_kappa` for strata [..., n_strata, n, n], and add at the end what holds over all: [..., n_strata + 1].

    Chance over all is the mean of the strata's chance, weighted by their counts. In one table of all, strata that differ in which
    classes they have would agree beyond chance though no stratum does.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    agreement, chance, kappa = cohens_kappa(counts)
    weights = counts.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = weights / weights.sum(axis=-1, keepdims=True)
    over_all = [
        np.where(weights > 0, shares * values, 0.0).sum(axis=-1, keepdims=True)
        for values in (agreement, chance)
    ]
    empty = weights.sum(axis=-1, keepdims=True) == 0
    agreement_all, chance_all = (np.where(empty, np.nan, values) for values in over_all)
    return (
        np.concatenate([agreement, agreement_all], axis=-1),
        np.concatenate([chance, chance_all], axis=-1),
        np.concatenate([kappa, _beyond(agreement_all, chance_all)], axis=-1),
    )


def resampling_weights(sizes: list[int], n: int, rng: np.random.Generator) -> np.ndarray:
    """Give how often each sample is drawn, [n, sum of sizes]: of each part as many as it has, with replacement."""
    return np.concatenate([rng.multinomial(size, np.full(size, 1 / size), size=n) for size in sizes], axis=1)


def shuffled_confusions(
    labels: np.ndarray, counts: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Shuffle the labels of one rater among items, each with all its counts.

    Args:
        labels: The first rater's class of each item, [n_items], below n_classes.
        counts: How often the second rater gave each item each class, [n_items, n_classes]; an item never rated takes no part.
        n: Shufflings.
        rng: The generator.

    Returns:
        Confusion tables [n, n_classes, n_classes].
    """
    rated = counts.sum(axis=1) > 0
    labels, counts = labels[rated], counts[rated].astype(np.float64)
    classes = np.eye(counts.shape[1])
    if len(labels) == 0:
        return np.zeros((n, *classes.shape))
    return np.stack([classes[rng.permutation(labels)].T @ counts for _ in range(n)])


def interval(values: np.ndarray, confidence: float) -> np.ndarray:
    """Give percentiles [rows, 2] of values [n, rows], without those that are undefined."""
    found = np.full((values.shape[1], 2), np.nan)
    for i, column in enumerate(values.T):
        known = column[~np.isnan(column)]
        if len(known):
            found[i] = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return found


def _beyond(agreement: np.ndarray, chance: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1 - 1e-12, (agreement - chance) / (1 - chance), np.nan)

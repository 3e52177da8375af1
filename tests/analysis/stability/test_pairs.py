"""Which pairs of SAEs are matched one to one, and SAEs that must not be compared at all."""

import re
from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.stability.pairs import pairs_to_match
from tests.analysis.stability.labelled import random_rows, sae_of
from tests.analysis.stability.test_feature_stability import relatives, stability

ALL = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
RING = [(0, 1), (0, 3), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("size", "which", "pairs"),
    [(2048, None, ALL), (2049, None, RING), (2049, "all", ALL), (8, "ring", RING)],
)
def test_pairs_are_all_up_to_2048_latents_and_a_ring_beyond(size: int, which: Any, pairs: Any) -> None:
    assert pairs_to_match([8, size, 8, 8], which) == pairs


@pytest.mark.parametrize(("n", "pairs"), [(2, [(0, 1)]), (3, [(0, 1), (0, 2), (1, 2)])])
def test_a_ring_of_two_or_three_is_all_pairs(n: int, pairs: Any) -> None:
    assert pairs_to_match([9] * n, "ring") == pairs


def test_every_SAE_is_in_two_pairs_of_a_ring() -> None:
    counts = torch.tensor(pairs_to_match([1] * 9, "ring")).flatten().bincount()
    assert counts.tolist() == [2] * 9


def test_a_ring_measures_its_pairs_as_all_pairs_do_and_says_so() -> None:
    saes = relatives((9, 14, 11, 6), d=16, noise=0.4)
    every, ring = stability(saes), stability(saes, pairs="ring")
    assert [(pair.first, pair.second) for pair in ring.pairs] == RING
    assert set(ring.pairs) <= set(every.pairs)
    assert "matched one to one: 4 of 6 pairs, a ring" in ring.notes
    assert not any("one to one" in note for note in every.notes)
    for one, other in zip(ring.max_cosines, every.max_cosines, strict=True):
        assert torch.equal(one, other)  # p̂ compares all


def test_an_unknown_choice_of_pairs_is_named() -> None:
    with pytest.raises(
        ValueError, match=re.escape('was given pairs = \'some\'. Give "all", "ring" or None.')
    ):
        stability(relatives((4, 4), d=8, noise=0.1), pairs="some")


def test_an_SAE_and_its_copy_in_bfloat16_are_the_same_SAE() -> None:
    rows = random_rows(20, 32, seed=0)
    rows[3] = 0
    with pytest.raises(ValueError, match="the decoders of 'a' and 'c' are identical"):
        stability({"a": sae_of(rows), "b": sae_of(random_rows(20, 32, seed=1)), "c": sae_of(rows).bfloat16()})


def test_SAEs_that_share_some_rows_are_no_twins() -> None:
    rows = random_rows(20, 32, seed=0)
    other = torch.cat([rows[:19], random_rows(1, 32, seed=1)])
    assert stability([sae_of(rows), sae_of(other)]).reappearance[0].sum() == 19


@pytest.mark.parametrize("mode", ["expected_average_only_in", "covariance_whitening"])
def test_an_SAE_whose_normalisation_was_not_folded_is_refused(mode: Any) -> None:
    saes = relatives((4, 4), d=8, noise=0.1)
    saes[1].cfg.normalize_activations = mode
    with pytest.raises(ValueError, match="which was never folded into its weights"):
        stability(saes)

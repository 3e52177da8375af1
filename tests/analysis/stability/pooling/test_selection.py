"""Keeping distinct directions, against a loop over all of them."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.analysis.stability.pooling import selection
from sae_lens_ext.analysis.stability.pooling.selection import Selection, select_distinct
from tests.analysis.stability.labelled import random_rows, unit

# No two rows of small whole numbers have exactly these cosines.
THRESHOLDS = st.sampled_from([0.3123, 0.7123, 0.9123])
WHOLE_ROWS = st.lists(
    st.lists(st.integers(-3, 3), min_size=3, max_size=3).filter(any), min_size=1, max_size=40
)


def greedy(rows: torch.Tensor, n: int, threshold: float) -> list[int]:
    """Which rows are kept, one row at a time."""
    kept: list[int] = []
    for i, row in enumerate(rows.double()):
        if len(kept) < n and all(float(row @ rows[j].double()) < threshold for j in kept):
            kept.append(i)
    return kept


def assert_clusters(found: Selection, rows: torch.Tensor, threshold: float) -> None:
    """Each row is in the cluster of the kept row that is nearest, if that is near enough."""
    assert found.cluster.shape == (len(rows),)
    assert found.cluster[found.kept].tolist() == list(range(len(found.kept)))
    for i, row in enumerate(rows.double()):
        cosines = [float(row @ rows[j].double()) for j in found.kept]
        cluster = int(found.cluster[i])
        if max(cosines) < threshold:
            assert cluster == -1
        else:
            assert cosines[cluster] == pytest.approx(max(cosines), abs=1e-6) and cosines[cluster] >= threshold


@given(numbers=WHOLE_ROWS, n=st.integers(1, 12), threshold=THRESHOLDS, block=st.integers(1, 7))
def test_select_distinct_is_a_greedy_loop_whatever_the_blocks(
    numbers: list[list[int]], n: int, threshold: float, block: int
) -> None:
    rows = unit(torch.tensor(numbers).float())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_BLOCK", block)
        found = select_distinct(rows, n, threshold)
    assert found.kept.tolist() == greedy(rows, n, threshold)
    assert_clusters(found, rows, threshold)
    cosines = rows[found.kept] @ rows[found.kept].T - 2 * torch.eye(len(found.kept))
    assert (cosines < threshold).all()


@pytest.mark.parametrize("block", [1, 16, 299, 300, 1024])
def test_select_distinct_of_noisy_copies_keeps_the_first_of_each(monkeypatch, block: int) -> None:
    monkeypatch.setattr(selection, "_BLOCK", block)
    features = random_rows(30, 64, seed=0)
    generator = torch.Generator().manual_seed(1)
    which = torch.randint(30, (300,), generator=generator)
    rows = unit(features[which] + 0.05 * torch.randn(300, 64, generator=generator))
    found = select_distinct(rows, 300, 0.7)
    first = [which.tolist().index(feature) for feature in dict.fromkeys(which.tolist())]
    assert found.kept.tolist() == first
    assert torch.equal(which[found.kept][found.cluster], which)  # everyone is in its own feature's cluster


def test_select_distinct_stops_at_n_and_leaves_strangers_out(monkeypatch) -> None:
    looked_at: list[int] = []
    within = selection._distinct_within

    def noting(rows: torch.Tensor, threshold: float) -> torch.Tensor:
        looked_at.append(len(rows))
        return within(rows, threshold)

    monkeypatch.setattr(selection, "_BLOCK", 4)
    monkeypatch.setattr(selection, "_distinct_within", noting)
    rows = torch.cat([torch.eye(12), torch.eye(12)])
    found = select_distinct(rows, 6, 0.7)
    assert found.kept.tolist() == [0, 1, 2, 3, 4, 5]
    assert looked_at == [4, 4]  # two blocks were enough
    assert found.cluster.tolist() == [*range(6), *[-1] * 6] * 2  # later rows join, too


def test_select_distinct_puts_a_row_in_the_nearest_cluster_not_in_the_first() -> None:
    rows = unit(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.75, 1.0], [1.0, 0.75], [-1.0, 0.0]]))
    found = select_distinct(rows, 5, 0.5)
    assert found.kept.tolist() == [0, 1, 4]  # the opposite direction is another feature
    assert found.cluster.tolist() == [0, 1, 1, 0, 2]


def test_select_distinct_keeps_the_more_wanted_of_two_that_are_like_a_third() -> None:
    # 0 and 2 are both like 1, but not like each other: whoever comes first decides.
    rows = unit(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    assert select_distinct(rows, 3, 0.7).kept.tolist() == [0, 2]
    assert select_distinct(rows[[1, 0, 2]], 3, 0.7).kept.tolist() == [0]


@pytest.mark.parametrize("shape", [(0, 4), (1, 4)])
def test_select_distinct_of_next_to_nothing(shape: Any) -> None:
    found = select_distinct(torch.ones(shape) / 2, 3, 0.7)
    assert found.kept.tolist() == found.cluster.tolist() == list(range(shape[0]))

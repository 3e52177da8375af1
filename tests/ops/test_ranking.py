"""The k largest of each row: the fast forms against a stable full sort, above all where there are ties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.ops.ranking import GROUP, LARGEST_INDEX, top_k, top_k_among, top_k_naive

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
Kept = tuple[torch.Tensor, torch.Tensor]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
widths = st.one_of(st.integers(1, 70), st.integers(1, 14).map(lambda groups: GROUP * groups))
some_scores = st.sampled_from(["distinct", "few integers", "mostly negative", "all zero", "infinite"])


def scores_of(kind: str, rows: int, width: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "distinct":
        return torch.randn(rows, width, generator=generator).to(dtype)
    if kind == "mostly negative":
        return (torch.randn(rows, width, generator=generator) - 1.5).to(dtype)
    if kind == "all zero":
        return torch.zeros(rows, width, dtype=dtype)
    integers = torch.randint(-2, 4, (rows, width), generator=generator).to(dtype)
    if kind == "infinite":
        return integers.masked_fill(integers == 3, math.inf).masked_fill(integers == -2, -math.inf)
    return integers


def by_python(scores: torch.Tensor, k: int) -> list[list[tuple[float, int]]]:
    """The positive scores of each row that are kept, with their indices, by Python's own sort."""
    rows = scores.tolist()
    ranked = [sorted((-score, index) for index, score in enumerate(row) if score > 0) for row in rows]
    return [[(-score, index) for score, index in row[:k]] for row in ranked]


def assert_keeps_what_python_keeps(kept: Kept, scores: torch.Tensor, k: int) -> None:
    values, indices = kept
    assert values.shape == indices.shape == (len(scores), k)
    assert values.dtype == scores.dtype and indices.dtype == torch.int64
    assert (values >= 0).all()
    assert ((indices >= 0) & (indices < scores.shape[1])).all()
    assert (indices.sort(dim=-1).values.diff(dim=-1) > 0).all(), "an index stands twice in a row"
    for row, expected in enumerate(by_python(scores, k)):
        on = len(expected)
        assert list(zip(values[row].tolist(), indices[row].tolist(), strict=True))[:on] == expected
        assert not values[row, on:].any()


def assert_same_kept(actual: Kept, expected: Kept) -> None:
    """Equal values in every slot, and equal indices in all slots whose value is not 0."""
    (values, indices), (wanted, wanted_indices) = actual, expected
    assert torch.equal(values, wanted)
    assert torch.equal(indices[wanted > 0], wanted_indices[wanted > 0])


@settings(deadline=None, max_examples=150)
@given(
    kind=some_scores,
    rows=st.integers(0, 4),
    width=widths,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_all_forms_keep_what_pythons_sort_keeps(
    kind: str, rows: int, width: int, dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, width))
    scores = scores_of(kind, rows, width, seed, dtype)
    before = scores.clone()
    assert_keeps_what_python_keeps(top_k_naive(scores, k), scores, k)
    assert_keeps_what_python_keeps(top_k(scores, k), scores, k)
    everything = torch.arange(width).expand_as(scores)
    assert_keeps_what_python_keeps(top_k_among(scores, everything, k), scores, k)
    assert torch.equal(scores, before)


@settings(deadline=None, max_examples=100)
@given(
    kind=some_scores,
    candidates=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_top_k_among_ranks_by_the_latents_indices_and_not_by_their_places(
    kind: str, candidates: int, dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    """Some latents of 60, in any order: as if all the others scored 0."""
    k = data.draw(st.integers(1, candidates))
    generator = torch.Generator().manual_seed(seed)
    scores = scores_of(kind, 3, candidates, seed, dtype)
    latents = torch.stack([torch.randperm(60, generator=generator)[:candidates] for _ in range(3)])
    kept = top_k_among(scores, latents, k)
    everything = torch.zeros(3, 60, dtype=dtype).scatter(1, latents, scores)
    assert_keeps_what_python_keeps(kept, everything, k)
    assert all(set(row) <= set(given) for row, given in zip(kept[1].tolist(), latents.tolist(), strict=True))


@every_dtype
@pytest.mark.parametrize("rest", [0, 1, GROUP - 1])
@pytest.mark.parametrize("n_groups", [7, 8, 9, 10, 33])
@pytest.mark.parametrize("kind", ["distinct", "few integers"])
def test_top_k_is_the_same_on_both_sides_of_the_width_where_groups_pay(
    kind: str, n_groups: int, rest: int, dtype: torch.dtype
) -> None:
    scores = scores_of(kind, 20, GROUP * n_groups + rest, seed=n_groups, dtype=dtype)
    for k in (3, 4):  # with one to spare, groups are formed from 9 or 11 of them on
        assert_same_kept(top_k(scores, k), top_k_naive(scores, k))


@every_dtype
def test_equal_scores_are_kept_in_the_order_of_their_indices(dtype: torch.dtype) -> None:
    scores = torch.tensor([[2.0, 5.0, 2.0, -1.0, 5.0, 2.0], [0.0, 3.0, -3.0, 0.0, 3.0, 1.0]], dtype=dtype)
    everything = torch.arange(6).expand(2, 6)
    for values, indices in (top_k_naive(scores, 4), top_k(scores, 4), top_k_among(scores, everything, 4)):
        assert values.tolist() == [[5.0, 5.0, 2.0, 2.0], [3.0, 3.0, 1.0, 0.0]]
        assert indices[0].tolist() == [1, 4, 0, 2] and indices[1, :3].tolist() == [1, 4, 5]


@every_dtype
@pytest.mark.parametrize("width", [20, 16 * GROUP])
def test_of_all_equal_scores_the_first_are_kept(width: int, dtype: torch.dtype) -> None:
    for k in (1, 3, width):
        values, indices = top_k(torch.full((2, width), 0.5, dtype=dtype), k)
        assert values.tolist() == [[0.5] * k] * 2 and indices.tolist() == [list(range(k))] * 2


@every_dtype
def test_only_the_tied_row_is_done_again_and_lands_in_its_place(dtype: torch.dtype) -> None:
    scores = scores_of("distinct", 9, 12 * GROUP, seed=0, dtype=torch.float32).argsort(dim=-1).to(dtype)
    scores[4] = (torch.arange(12 * GROUP) % 5).to(dtype)
    values, indices = top_k(scores, 3)
    assert values[4].tolist() == [4.0, 4.0, 4.0] and indices[4].tolist() == [4, 9, 14]
    assert_same_kept((values, indices), top_k_naive(scores, 3))


@every_dtype
def test_negative_zero_ties_with_zero_and_never_fires(dtype: torch.dtype) -> None:
    scores = torch.tensor([[-0.0, 0.0, 1.0, -0.0]], dtype=dtype)
    for values, indices in (top_k(scores, 3), top_k_among(scores, torch.arange(4).unsqueeze(0), 3)):
        assert values.tolist() == [[1.0, 0.0, 0.0]] and indices[0, 0] == 2
        assert len(set(indices[0].tolist())) == 3


@every_dtype
def test_a_row_without_positive_scores_keeps_zeros_at_distinct_indices(dtype: torch.dtype) -> None:
    for scores in (torch.full((2, 9), -1.0), torch.zeros(2, 9), torch.full((2, 9), -math.inf)):
        values, indices = top_k(scores.to(dtype), 5)
        assert not values.any()
        assert all(len(set(row)) == 5 for row in indices.tolist())


def test_top_k_naive_takes_leading_dimensions() -> None:
    scores = torch.randn(2, 3, 7)
    values, indices = top_k_naive(scores, 4)
    assert values.shape == indices.shape == (2, 3, 4)
    torch.testing.assert_close(values, scores.gather(-1, indices).relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_top_k_among_tells_the_smallest_and_the_largest_of_all_indices_apart(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    scores = torch.tensor([[tiny, tiny, 1.0, 1.0]], dtype=dtype)
    latents = torch.tensor([[LARGEST_INDEX, 0, LARGEST_INDEX - 1, LARGEST_INDEX - 2]])
    values, kept = top_k_among(scores, latents, 4)
    assert values.tolist() == [[1.0, 1.0, tiny, tiny]]
    assert kept.tolist() == [[LARGEST_INDEX - 2, LARGEST_INDEX - 1, 0, LARGEST_INDEX]]

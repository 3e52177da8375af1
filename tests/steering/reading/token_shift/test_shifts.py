import math
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.steering.reading.token_shift.paired_logits import PairedLogits
from sae_lens_ext.steering.reading.token_shift.shifts import Shifts, joined, shifts_of


def _pairs(seed: int, n: int, d_vocab: int, scale: float) -> PairedLogits:
    generator = torch.Generator().manual_seed(seed)
    base, change = (torch.randn(n, d_vocab, generator=generator) for _ in range(2))
    token = torch.randint(d_vocab, (n,), generator=generator)
    order = torch.arange(n)
    return PairedLogits(order, order, token, 4 * base, 4 * base + scale * change)


@given(st.integers(0, 999), st.integers(1, 5), st.integers(2, 40), st.sampled_from([1e-6, 1e-3, 1.0, 30.0]))
def test_shifts_hold_what_holds_of_any_two_distributions(seed: int, n: int, d_vocab: int, scale: float):
    found = shifts_of(_pairs(seed, n, d_vocab, scale), top_k=d_vocab)
    moved = found.total_variation.double()
    assert (found.kl >= 0).all()
    assert ((moved >= 0) & (moved <= 1 + 1e-6)).all()
    assert (moved**2 <= found.kl.double() / 2 * (1 + 1e-4) + 1e-12).all()  # Pinsker's inequality
    torch.testing.assert_close(found.boosted_delta.sum(dim=1), found.total_variation)
    assert (found.boosted_delta[:, 0] >= found.token_delta).all()
    assert (found.boosted_delta.diff(dim=1) <= 0).all()
    assert ((found.boosted == -1) == (found.boosted_delta == 0)).all()


def test_shifts_do_not_change_with_a_constant_added_to_the_logits():
    pairs = _pairs(1, 3, 10, 1.0)
    moved = PairedLogits(pairs.row, pairs.offset, pairs.token, pairs.base + 7, pairs.steered - 5)
    first, second = shifts_of(pairs, 3), shifts_of(moved, 3)
    torch.testing.assert_close(first.kl, second.kl, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first.boosted_delta, second.boosted_delta, rtol=1e-5, atol=1e-6)


def test_shifts_of_a_small_change_have_the_kl_of_its_second_order():
    # KL = ½ Var_p(change) + O(change³): far below what float32 would leave of it.
    pairs = _pairs(2, 4, 30, 1.0)
    small = 1e-5 * torch.randn(4, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    base = pairs.base.double()
    p = base.softmax(dim=1)
    expected = ((p * small**2).sum(dim=1) - (p * small).sum(dim=1) ** 2) / 2
    found = shifts_of(PairedLogits(pairs.row, pairs.offset, pairs.token, base, base + small), 1)
    torch.testing.assert_close(found.kl.double(), expected, rtol=1e-3, atol=0)


def test_shifts_of_a_token_that_steering_forbids_are_finite_and_of_one_it_permits_infinite():
    base = torch.tensor([[0.0, 0.0, 0.0]])
    without = torch.tensor([[0.0, 0.0, -math.inf]])
    zero = torch.zeros(1, dtype=torch.int64)
    forbidden = shifts_of(PairedLogits(zero, zero, zero, base, without), 1)
    torch.testing.assert_close(forbidden.kl, torch.tensor([math.log(3 / 2)]))
    permitted = shifts_of(PairedLogits(zero, zero, zero, without, base), 1)
    assert permitted.kl.tolist() == [math.inf]
    assert permitted.boosted.tolist() == [[2]]


def test_joined_shifts_are_by_row_and_then_by_offset():
    several = [_one([2, 0, 0], [0, 1, 0]), _one([1, 2], [0, 1])]
    found = joined(several)
    assert found.row.tolist() == [0, 0, 1, 2, 2]
    assert found.offset.tolist() == [0, 1, 0, 0, 1]
    assert found.token.tolist() == [0, 1, 10, 20, 21]


def _one(row: list[int], offset: list[int]) -> Shifts:
    """Lines whose tokens say which they are."""
    pairs = _pairs(0, len(row), 5, 1.0)
    rows, offsets = torch.tensor(row), torch.tensor(offset)
    return replace(shifts_of(pairs, 2), row=rows, offset=offsets, token=10 * rows + offsets)

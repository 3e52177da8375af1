"""Which latents are masked: nested, drawn afresh, and matched in firing rate as well as can be."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sae_lens_ext.analysis.stability.masking.reading import masked_sums, masked_sums_naive
from sae_lens_ext.analysis.stability.masking.subsets import (
    Masking,
    draw_maskings,
    mask_counts,
    nearest_in_rate,
)

STABLE, UNSTABLE = torch.arange(0, 20), torch.arange(30, 70)
FIRED = torch.arange(100) * 7 % 50 + 1


def drawn(counts: Any = (3, 8, 20, 40), n_draws: int = 3, seed: int = 0) -> list[Masking]:
    return draw_maskings(STABLE, UNSTABLE, counts, FIRED, n_draws=n_draws, seed=seed)


def test_draw_maskings_gives_each_group_the_counts_that_it_has() -> None:
    found = [(m.group, m.draw, m.counts) for m in drawn(n_draws=2)]
    assert found == [
        ("stable", 0, (3, 8, 20)),
        ("stable", 1, (3, 8, 20)),
        ("unstable", 0, (3, 8, 20, 40)),
        ("unstable", 1, (3, 8, 20, 40)),
        *(("frequency-matched", draw, (n,)) for draw in (0, 1) for n in (3, 8, 20)),
    ]
    assert {m.group for m in drawn(counts=(30,))} == {"unstable"}


def test_draw_maskings_takes_members_of_the_group_each_once() -> None:
    for masking in drawn():
        members = UNSTABLE if masking.group == "unstable" else STABLE
        assert len(masking.order) == masking.counts[-1] == len(set(masking.order.tolist()))
        assert set(masking.order.tolist()) <= set(members.tolist())


def test_Masking_steps_say_where_a_latent_is_first_masked() -> None:
    masking = Masking("stable", 0, (1, 3, 4), torch.tensor([5, 2, 0, 3]))
    assert masking.steps(7).tolist() == [1, 3, 1, 2, 3, 0, 3]


def test_draw_maskings_differ_between_draws_and_seeds_and_leave_torch_s_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = ([m.order.tolist() for m in drawn(seed=seed)] for seed in (0, 0, 1))
    assert first == again and all(a != b for a, b in zip(first[:6], other[:6], strict=True))
    assert len({tuple(order) for order in first}) == len(first)
    assert torch.equal(state, torch.random.get_rng_state())


def test_draw_maskings_reach_every_latent_as_often() -> None:
    often = torch.zeros(100)
    for masking in drawn(counts=(5,), n_draws=2000):
        if masking.group != "frequency-matched":
            often[masking.order] += 1
    # Of 20 stable ones 5 a draw, of 40 unstable ones 5: 500 ± 19 and 250 ± 15 times.
    assert ((often[STABLE] - 500).abs() < 5 * 19.4).all() and ((often[UNSTABLE] - 250).abs() < 5 * 14.8).all()
    assert often.sum() == 20_000


def test_draw_maskings_matches_each_set_of_unstable_latents_anew() -> None:
    found = drawn()
    unstable = {m.draw: m.order for m in found if m.group == "unstable"}
    for masking in found:
        if masking.group == "frequency-matched":
            targets = FIRED[unstable[masking.draw][: masking.counts[0]]]
            assert cost(targets, FIRED[masking.order]) == pytest.approx(least_cost(targets, FIRED[STABLE]))


def test_draw_maskings_lets_latents_that_fire_equally_often_take_turns() -> None:
    even = draw_maskings(STABLE, UNSTABLE, (2,), torch.full((100,), 9), n_draws=200, seed=0)
    matched = {latent for m in even if m.group == "frequency-matched" for latent in m.order.tolist()}
    assert matched == set(STABLE.tolist())


def cost(targets: torch.Tensor, candidates: torch.Tensor) -> float:
    logs = [np.log(np.maximum(counts.double().numpy(), 0.5)) for counts in (targets, candidates)]
    return float(np.abs(logs[0] - logs[1]).sum())


def least_cost(targets: torch.Tensor, candidates: torch.Tensor) -> float:
    logs = [np.log(np.maximum(counts.double().numpy(), 0.5)) for counts in (targets, candidates)]
    differences = np.abs(logs[0][:, None] - logs[1])
    return float(differences[linear_sum_assignment(differences)].sum())


def test_nearest_in_rate_by_hand_where_greed_is_wrong() -> None:
    # In powers of 2, targets 3 and 4, candidates 1, 4 and 9. The first target alone is nearest to 4 (cost 1), which leaves 9 or 1
    # for the other: 1 + 3. Best is 3 → 1 and 4 → 4: 2 + 0.
    assert nearest_in_rate(torch.tensor([8, 16]), torch.tensor([2, 16, 512])).tolist() == [0, 1]
    assert nearest_in_rate(torch.tensor([16, 8]), torch.tensor([512, 2, 16])).tolist() == [2, 1]


def test_nearest_in_rate_counts_never_as_half_a_firing() -> None:
    assert nearest_in_rate(torch.tensor([0]), torch.tensor([8, 1, 4])).tolist() == [1]
    assert nearest_in_rate(torch.tensor([1, 0]), torch.tensor([0, 1])).tolist() == [1, 0]


@given(st.data())
def test_nearest_in_rate_costs_as_little_as_the_hungarian_method(data: st.DataObject) -> None:
    candidates = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    targets = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=len(candidates)))
    wanted, offered = torch.tensor(targets), torch.tensor(candidates)
    partner = nearest_in_rate(wanted, offered)
    assert len(set(partner.tolist())) == len(targets)
    assert cost(wanted, offered[partner]) == pytest.approx(least_cost(wanted, offered), abs=1e-9)


@given(st.integers(0, 2**31), st.integers(1, 4), st.floats(0, 1))
def test_masked_sums_is_its_naive_twin(seed: int, n_sets: int, density: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(5, 9, generator=generator) * (torch.rand(5, 9, generator=generator) < density)
    rows = torch.randn(9, 4, generator=generator)
    steps = torch.randint(0, n_sets + 1, (9,), generator=generator)
    token, latent = acts.nonzero(as_tuple=True)
    firings = (token, latent, acts[token, latent], steps, rows, (5, n_sets))
    assert torch.allclose(masked_sums(*firings), masked_sums_naive(*firings), atol=1e-5)


@pytest.mark.parametrize(
    ("n_stable", "n_unstable", "expected"),
    [
        (16, 100, (1, 2, 4, 8, 16, 32, 64)),
        (16, 64, (1, 2, 4, 8, 16, 32, 64)),
        (16, 40, (1, 2, 4, 8, 16, 32, 40)),  # all there are
        (16, 5, (1, 2, 4, 5, 8, 16)),
        (1, 1, (1,)),
        (3, 50, (1, 3, 6, 12)),
    ],
)
def test_mask_counts_by_default(n_stable: int, n_unstable: int, expected: tuple[int, ...]) -> None:
    assert mask_counts(None, n_stable, n_unstable) == expected


@pytest.mark.parametrize(
    "counts", [(5, 2, 0, 5), [2, 5], range(2, 6, 3), np.array([5, 2]), torch.tensor([0, 2, 5])]
)
def test_mask_counts_as_given(counts: Any) -> None:
    assert mask_counts(counts, 3, 5) == (2, 5)


@pytest.mark.parametrize(
    ("counts", "complaint"),
    [
        (
            (2, 6),
            r"counts = 6 is out of range. Give an int between 1 and the latents of the larger class \(3 stable, 5 unstable\) = 5",
        ),
        ((-1,), r"masking_curve.counts = -1 is out of range"),
        ((2.0,), r"masking_curve.counts must be a whole number, but 2.0"),
        (("a",), r"masking_curve.counts must be a whole number, but 'a'"),
        (4, r"given counts = 4. Give a sequence of whole numbers"),
        ("4", r"given counts = '4'. Give a sequence"),
        ((), r"given no counts but 0, so that nothing would be masked"),
        ((0,), r"given no counts but 0"),
    ],
)
def test_mask_counts_refuses(counts: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        mask_counts(counts, 3, 5)

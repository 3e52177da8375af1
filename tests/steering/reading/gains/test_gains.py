"""Pair gain and transfer: worked by hand, with intervals against loops."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.bootstrap import resamples
from sae_lens_ext.steering.reading.gains import PairGain, PairGains, Transfer, pair_gain, pair_gains, transfer


@dataclass
class Measured:
    rewards: Any
    prompts: Any = None


def measured(*rewards: float, samples: int = 2) -> Measured:
    """The rewards of prompts, each sampled twice: one a little above, one as much below."""
    means = np.array(rewards)[:, None]
    return Measured(means + np.linspace(-0.1, 0.1, samples))


def random_rewards(seed: int, *means: float, n: int = 40, samples: int = 4) -> list[Measured]:
    rng = np.random.default_rng(seed)
    ease = rng.uniform(-0.2, 0.2, size=n)
    return [
        Measured(
            torch.tensor((rng.random((n, samples)) < np.clip(mean + ease, 0, 1)[:, None]).astype(np.float32))
        )
        for mean in means
    ]


def test_pair_gain_of_numbers_by_hand() -> None:
    found = pair_gain(0.3, 0.4, 0.55, 0.7)
    assert found.value == pytest.approx(0.5) and (found.low, found.high, found.n_prompts) == (
        None,
        None,
        None,
    )
    assert pair_gain(0.4, 0.3, 0.4, 0.5).value == pytest.approx(0)
    assert pair_gain(0.4, 0.3, 0.3, 0.5).value == pytest.approx(-1)
    assert pair_gain(0, 0.3, 0.6, 0.5).value == pytest.approx(1.5)
    assert {name: one.value for name, one in found.parts.items()} == {
        "r_i": 0.3,
        "r_j": 0.4,
        "r_ij": 0.55,
        "r_all": 0.7,
    }


def test_transfer_of_numbers_by_hand() -> None:
    assert transfer(0.2, 0.6, 0.5).value == pytest.approx(0.75)
    assert transfer(0.2, 0.6, 0.1).value == pytest.approx(-0.25)
    assert transfer(base=-1, own=1, transferred=1).value == 1


@settings(max_examples=25)
@given(*(st.floats(0, 1) for _ in range(3)), st.floats(0.5, 2), st.floats(-3, 3))
def test_neither_changes_with_the_units_of_the_reward(
    a: float, b: float, c: float, scale: float, shift: float
) -> None:
    best = max(a, b) + 0.1
    other = [scale * x + shift for x in (a, b, c, best)]
    assert pair_gain(*other).value == pytest.approx(pair_gain(a, b, c, best).value, abs=1e-6)
    assert transfer(other[0], other[3], other[2]).value == pytest.approx(transfer(a, best, c).value, abs=1e-6)


def test_measurements_by_hand() -> None:
    base, own, foreign = measured(0.0, 0.5), measured(1.0, 0.5), measured(0.5, 0.5)
    found = transfer(base, own, foreign, n_resamples=4_000)
    assert found.value == pytest.approx(0.5) and found.n_prompts == 2
    # A quarter of the samples holds the second prompt twice, where own is no better than base.
    assert found.undefined == pytest.approx(0.25, abs=0.03) and (found.low, found.high) == (None, None)
    assert "no interval, as 2" in repr(found)
    assert found.parts["r_base"].low == 0 and found.parts["r_base"].high == 0.5


def test_the_interval_is_over_prompts_resampled_for_all_alike() -> None:
    rewards = random_rewards(0, 0.3, 0.35, 0.5, 0.7)
    found = pair_gain(*rewards, n_resamples=300, seed=5)
    r_i, r_j, r_ij, r_all = (one.rewards.double().mean(dim=1).numpy() for one in rewards)
    gains = []
    for chosen in resamples(40, 300, 5):
        best = max(r_i[chosen].mean(), r_j[chosen].mean())
        gains.append((r_ij[chosen].mean() - best) / (r_all[chosen].mean() - best))
    low, high = np.percentile(gains[1:], (2.5, 97.5))
    assert (found.value, found.low, found.high) == pytest.approx(
        (gains[0], low, high)
    ) and found.undefined == 0
    assert found.low is not None and found.low < found.value < (found.high or 0)
    base, own, foreign = rewards[0], rewards[3], rewards[2]
    moved = transfer(base, own, foreign, n_resamples=300, seed=5)
    ratios = [(r_ij[c] - r_i[c]).mean() / (r_all[c] - r_i[c]).mean() for c in resamples(40, 300, 5)]
    assert (moved.low, moved.high) == pytest.approx(tuple(np.percentile(ratios[1:], (2.5, 97.5))))


def test_a_paired_interval_is_narrower_where_prompts_differ_in_ease() -> None:
    ease = np.linspace(0, 5, 50)[:, None]
    base, own, foreign = (Measured(ease + gain + 0.01 * np.sin(gain + ease)) for gain in (0.0, 0.2, 0.1))
    found = transfer(base, own, foreign)
    assert found.low is not None and found.high is not None and found.high - found.low < 0.1
    assert found.parts["r_base"].high - found.parts["r_base"].low > 0.5  # type: ignore[operator]


def test_the_same_prompts_give_the_same_interval_again_and_one_gives_none() -> None:
    rewards = random_rewards(1, 0.3, 0.35, 0.5, 0.7)
    assert pair_gain(*rewards, seed=3) == pair_gain(*rewards, seed=3)
    assert pair_gain(*rewards, seed=3) != pair_gain(*rewards, seed=4)
    one = transfer(measured(0.1), measured(0.5), measured(0.3))
    assert one.value == pytest.approx(0.5) and one.low is None and one.n_prompts == 1


def test_nothing_to_have_a_share_of_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"all layers together, 0\.4, are no better than the better of the two layers, 0\.5"
    ):
        pair_gain(0.5, 0.3, 0.6, 0.4)
    with pytest.raises(
        ValueError, match="so that the gain has nothing to be a share of. Compare layers that"
    ):
        pair_gain(0.1 + 0.2, 0.3, 0.6, 0.3)  # 0.1 + 0.2 is a rounding above 0.3
    with pytest.raises(ValueError, match=r"own vectors, 0\.2, do not raise the reward of the base, 0\.2, so"):
        transfer(0.2, 0.2, 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            (0.1, measured(0.5), 0.3),
            "was given r_base as 0.1 and r_own as a measurement, so that no interval",
        ),
        (
            (measured(0.1, 0.2), measured(0.5), measured(0.3)),
            "r_base measured on 2 prompts and r_own on 1. Give numbers for all",
        ),
        (
            (measured(0.1), measured(math.nan), measured(0.3)),
            "was given r_own with NaN or infinity in row 0 of its rewards",
        ),
        ((math.nan, 0.2, 0.3), "was given r_base = nan. Give a finite number"),
        (("high", 0.2, 0.3), "was given r_base = 'high'. Give a finite number"),
        ((True, 0.2, 0.3), "was given r_base = True. Give a finite number"),
        (
            (torch.ones(3), torch.ones(3), torch.ones(3)),
            r"rewards of the shape \(3,\) and type float32. Give numbers \[prompts, samples\]",
        ),
        (
            (
                Measured(np.ones((2, 1)), prompts=("a", "b")),
                Measured(np.ones((2, 1)), prompts=("b", "a")),
                Measured(np.ones((2, 1))),
            ),
            "was given r_base and r_own measured on other prompts, or in another order",
        ),
    ],
)
def test_rewards_that_do_not_belong_together(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"transfer was given .*{message.removeprefix('was given ')}"):
        transfer(*given)


def test_no_bootstrap_samples() -> None:
    for compute in (lambda: transfer(0, 1, 1, n_resamples=0), lambda: pair_gain(0, 0, 1, 1, n_resamples=0)):
        with pytest.raises(ValueError, match=r"n_resamples = 0 is out of range"):
            compute()


def test_a_measurement_of_measure_reward_is_understood() -> None:
    """Its fields are the ones that are read here."""
    from dataclasses import fields

    from sae_lens_ext.steering.training import RewardMeasurement

    assert {"rewards", "prompts"} <= {field.name for field in fields(RewardMeasurement)}


SINGLES = {3: 0.4, 7: 0.5, 11: 0.6}
PAIRS = {(3, 7): 0.55, (11, 3): 0.7, (7, 11): 0.5}


def test_a_matrix_of_pair_gains_by_hand() -> None:
    found = pair_gains(SINGLES, PAIRS, 0.8)
    assert [(row.i, row.j) for row in found.rows] == [(3, 7), (3, 11), (7, 11)] and found.layers == (3, 7, 11)
    expected = [[math.nan, 1 / 6, 0.5], [1 / 6, math.nan, -0.5], [0.5, -0.5, math.nan]]
    assert torch.allclose(found.matrix, torch.tensor(expected).double(), equal_nan=True)
    assert found.reward_all == 0.8 and found.rows[1].reward_i == 0.4 and found.rows[1].reward_j == 0.6
    poor = pair_gains(SINGLES, PAIRS, 0.55)
    assert [row.gain is None for row in poor.rows] == [False, True, True]
    assert poor.rows[0].gain == pytest.approx(1) and poor.rows[0].reason is None
    assert poor.rows[1].reason is not None and poor.rows[1].reason.startswith(
        "There are rewards by which all layers"
    )
    assert "1 with a gain" in repr(poor) and poor.to_frame()["gain"].isna().tolist() == [False, True, True]
    assert "no pair has a gain" in repr(pair_gains(SINGLES, PAIRS, 0.1))


def test_each_of_many_pair_gains_is_the_one_alone() -> None:
    one, two, three, pair, whole = random_rewards(2, 0.2, 0.3, 0.3, 0.45, 0.8)
    found = pair_gains(
        {0: one, 1: two, 2: three}, {(0, 1): pair, (2, 1): pair}, whole, n_resamples=100, seed=1
    )
    alone = pair_gain(one, two, pair, whole, n_resamples=100, seed=1)
    assert (found.rows[0].gain, found.rows[0].low, found.rows[0].high) == (alone.value, alone.low, alone.high)
    assert found.n_prompts == 40 and found.provenance["seed"] == 1


@pytest.mark.parametrize(
    ("singles", "pairs", "message"),
    [
        (SINGLES, {}, r"was given pairs = \{\}. Give a mapping"),
        ([0.1], PAIRS, r"was given singles = \[0.1\]. Give a mapping"),
        (SINGLES, {(3, 3): 0.5}, r"a pair \(3, 3\). Give two different layers"),
        (SINGLES, {3: 0.5}, r"a pair 3. Give two different layers"),
        (SINGLES, {(3, 4): 0.5}, r"the pair \(3, 4\), but no reward of layer 4 alone. Give it in singles"),
        (SINGLES, {(3, 7): 0.5, (7, 3): 0.5}, r"the pair \(3, 7\) in both orders. Give it once"),
        (SINGLES, {(3, 7): math.inf}, r"for layers 3 and 7 was given r_ij = inf. Give a finite number"),
    ],
)
def test_pairs_that_cannot_be_read(singles: Any, pairs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_gains(singles, pairs, 0.8)


def test_results_come_back_from_files(tmp_path: Path) -> None:
    rewards = random_rewards(3, 0.3, 0.35, 0.5, 0.7)
    gain = pair_gain(*rewards)
    gain.save(tmp_path / "gain.json")
    assert PairGain.load(tmp_path / "gain.json") == gain
    moved = transfer(0.2, 0.6, 0.5)
    moved.save(tmp_path / "transfer.json")
    assert Transfer.load(tmp_path / "transfer.json") == moved
    pairs = pair_gains(SINGLES, PAIRS, 0.55)
    pairs.save(tmp_path / "pairs.json")
    assert PairGains.load(tmp_path / "pairs.json") == pairs
    with pytest.raises(ValueError, match="is not a Transfer that this version can read"):
        Transfer.load(tmp_path / "gain.json")


def test_results_as_tables_texts_and_figures() -> None:
    gain = pair_gain(*random_rewards(3, 0.3, 0.35, 0.5, 0.7))
    assert gain.to_frame()["name"].tolist() == ["r_i", "r_j", "r_ij", "r_all", "pair_gain"]
    assert len(repr(gain).splitlines()) == 3 and "over 40 prompts" in repr(gain)
    assert gain._repr_html_().count("<tr") == 6
    assert list(gain.plot().data[0].x) == ["r_i", "r_j", "r_ij", "r_all"]
    moved = transfer(0.2, 0.6, 0.5)
    assert repr(moved).splitlines()[0] == "Transfer 0.750 of numbers, without an interval"
    assert list(moved.plot().data[0].y) == [0.2, 0.6, 0.5]
    pairs = pair_gains(SINGLES, PAIRS, 0.8)
    assert repr(pairs).splitlines()[1] == "  the largest is 0.500, of layers 3 and 11"
    assert pairs.plot().data[0].zmin == -1 and pairs._repr_html_().count("<tr") == 4

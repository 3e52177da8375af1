"""RLOO's advantages by hand, and what the controls keep."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.steering.training.advantages import controlled_rewards, rloo_advantages


def test_by_hand() -> None:
    found = rloo_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0]]))
    # 1 − (0 + 0 + 1)/3, 0 − (1 + 0 + 1)/3; 3 − 0, 0 − 3/3
    torch.testing.assert_close(found, torch.tensor([[2 / 3, -2 / 3, -2 / 3, 2 / 3], [3.0, -1.0, -1.0, -1.0]]))


def naive(rewards: torch.Tensor) -> torch.Tensor:
    found = torch.zeros_like(rewards)
    for i, of_prompt in enumerate(rewards):
        for j, own in enumerate(of_prompt):
            others = [other for k, other in enumerate(of_prompt) if k != j]
            found[i, j] = own - sum(others) / len(others)
    return found


@given(st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=1, max_size=4))
def test_it_is_the_reward_less_the_mean_of_the_others(rewards: list[list[float]]) -> None:
    given_ = torch.tensor(rewards, dtype=torch.float64)
    torch.testing.assert_close(rloo_advantages(given_), naive(given_), atol=1e-9, rtol=1e-9)


@given(st.floats(-100, 100))
def test_equal_rewards_have_exactly_no_advantage(reward: float) -> None:
    assert not rloo_advantages(torch.full((2, 16), reward)).any()


def test_random_rewards_are_zeros_and_ones_that_follow_from_the_seed() -> None:
    rewards = np.full((100, 16), 0.3)
    found = controlled_rewards(rewards, "random", (0, 1))
    assert set(np.unique(found)) == {0.0, 1.0}
    assert abs(found.mean() - 0.5) < 0.05
    np.testing.assert_array_equal(found, controlled_rewards(rewards, "random", (0, 1)))
    assert (found != controlled_rewards(rewards, "random", (0, 2))).any()


def test_shuffled_rewards_stay_with_their_prompt() -> None:
    rewards = np.arange(32.0).reshape(2, 16)
    found = controlled_rewards(rewards, "shuffled", (0,))
    np.testing.assert_array_equal(np.sort(found, axis=1), rewards)
    assert (found != rewards).any()


@pytest.mark.parametrize("control", [None, "random", "shuffled"])
def test_what_was_given_is_left_as_it_is(control: str | None) -> None:
    rewards = np.arange(8.0).reshape(2, 4)
    controlled_rewards(rewards, control, (0,))  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(rewards, np.arange(8.0).reshape(2, 4))

"""Measuring a reward: paired by seed, independent of batches, prefixes given and not sampled, saved and read again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_ext import AddVector, RewardError, RewardMeasurement, measure_reward, steer

PROMPTS = ["w3 w4 w5", "w6", "w7 w8"]


def n_words(prompt: str, completion: str) -> float:
    return float(len(completion.split()))


def measure(model: Any, **changed: Any) -> RewardMeasurement:
    return measure_reward(
        model, PROMPTS, n_words, **({"samples_per_prompt": 6, "max_new_tokens": 4} | changed)
    )


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_batches_do_not_change_what_is_written(any_model: Any, batch_size: int) -> None:
    expected = measure(any_model)
    found = measure(any_model, batch_size=batch_size)
    assert found.tokens == expected.tokens
    np.testing.assert_array_equal(found.rewards, expected.rewards)


def test_fields_fit_together(any_model: Any) -> None:
    found = measure(any_model)
    assert found.rewards.shape == found.ended.shape == found.log_probs.shape == (3, 6)
    for i in range(3):
        assert found.prompt_tokens[i] == tuple(any_model.to_tokens(PROMPTS[i])[0].tolist())
        for j in range(6):
            text = found.tokens[i][j][:-1] if found.ended[i, j] else found.tokens[i][j]
            assert found.completions[i][j] == any_model.tokenizer.decode(list(text))
            assert found.rewards[i, j] == len(found.completions[i][j].split())
    assert found.mean == pytest.approx(found.rewards.mean())
    low, high = found.interval or (1, 0)
    assert low <= found.mean <= high
    assert len(found.to_frame()) == 18
    assert [one.tolist() for one in found.sequences.tokens[6:7]] == [
        [*found.prompt_tokens[1], *found.tokens[1][0]]
    ]
    assert len(found.plot().to_dict()["data"]) == 1


def test_an_intervention_is_a_steer_block_around_it(any_model: Any) -> None:
    vector = AddVector("blocks.0.hook_resid_post", torch.linspace(-2, 2, 16))
    given = measure(any_model, intervention=vector)
    with steer(any_model, vector):
        around = measure(any_model)
    assert given.tokens == around.tokens != measure(any_model).tokens


@pytest.mark.parametrize(
    "where",
    [{"phases": ("prompt",)}, {"phases": ("generation",)}, {"positions": -1}, {"positions": slice(-1, None)}],
)
def test_prompt_and_generation_mean_what_they_say(any_model: Any, where: dict[str, Any]) -> None:
    vector = AddVector("blocks.0.hook_resid_post", torch.linspace(-2, 2, 16), **where)
    found = measure(any_model, intervention=vector)
    for i in range(3):
        prompt = torch.tensor(found.prompt_tokens[i])
        for j in range(6):
            whole = torch.cat([prompt, torch.tensor(found.tokens[i][j])])[None]
            with steer(any_model, vector, attention_mask=torch.ones(1, len(prompt))), torch.no_grad():
                logits = any_model(whole, return_type="logits")[0, len(prompt) - 1 : -1]
            own = logits.log_softmax(-1).gather(1, whole[0, len(prompt) :, None])
            assert found.log_probs[i, j] == pytest.approx(own.mean().item(), abs=1e-4)


def test_a_mask_of_positions_is_refused(hooked_model: Any) -> None:
    mask = torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="positions as a mask"):
        measure(
            hooked_model, intervention=AddVector("blocks.0.hook_resid_post", torch.ones(16), positions=mask)
        )


def test_a_prefix_is_given_and_read_by_the_reward(any_model: Any) -> None:
    by_id, by_text = measure(any_model, prefix=7), measure(any_model, prefix="w5")
    assert by_id.tokens == by_text.tokens
    assert by_id.prompt_tokens[0][-1] == 7
    assert all(text.startswith("w5") for of_prompt in by_text.completions for text in of_prompt)
    alike = measure_reward(
        any_model, [f"{p} w5" for p in PROMPTS], n_words, samples_per_prompt=6, max_new_tokens=4
    )
    assert by_id.tokens == alike.tokens


def test_gains_are_paired(any_model: Any) -> None:
    found = measure(any_model)
    gain = found.gain_over(found)
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    other = measure_reward(any_model, PROMPTS[:2], n_words, samples_per_prompt=2, max_new_tokens=2)
    with pytest.raises(ValueError, match="other prompts"):
        found.gain_over(other)


def test_one_prompt_has_no_interval(hooked_model: Any) -> None:
    found = measure_reward(hooked_model, PROMPTS[:1], n_words, samples_per_prompt=2, max_new_tokens=2)
    assert found.interval is None
    assert "mean reward" in repr(found)


def test_it_can_be_saved_and_read(hooked_model: Any, tmp_path: Path) -> None:
    found = measure(hooked_model)
    found.save(tmp_path / "found.json")
    again = RewardMeasurement.load(tmp_path / "found.json")
    assert again.tokens == found.tokens
    assert again.completions == found.completions
    np.testing.assert_array_equal(again.rewards, found.rewards)
    assert again.provenance == found.provenance
    (tmp_path / "found.json").write_text((tmp_path / "found.json").read_text()[:200])
    with pytest.raises(ValueError, match="is not a RewardMeasurement"):
        RewardMeasurement.load(tmp_path / "found.json")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"samples_per_prompt": 0}, "samples_per_prompt = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"temperature": 0}, "temperature = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"prefix": 99}, "prefix = 99"),
        ({"prefix": 2.5}, "prefix = 2.5"),
        ({"max_new_tokens": 14}, "of 4 tokens. With max_new_tokens = 14"),
    ],
)
def test_bad_arguments_are_refused(hooked_model: Any, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        measure(hooked_model, **changed)


def test_a_reward_that_fails_says_where(hooked_model: Any) -> None:
    with pytest.raises(RewardError, match="gave nan") as caught:
        measure_reward(
            hooked_model, PROMPTS, lambda p, c: float("nan"), samples_per_prompt=1, max_new_tokens=1
        )
    assert caught.value.vectors is None
    assert len(caught.value.completions) == 3

"""Training steering vectors: it raises the reward, moves nothing but the vectors, resumes exactly, and says what was wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata

from sae_lens_ext import SteeringVectors
from sae_lens_ext.steering.training import EarlyStop, RewardError, measure_reward, train_steering_vectors

PROMPTS = ["w3 w4 w5", "w6", "w7 w8", "w9 w10 w11 w12"]
BUDGET: dict[str, Any] = {
    "group_size": 6,
    "prompts_per_step": 3,
    "max_new_tokens": 3,
    "steps": 4,
    "lr": 0.1,
    "kl_every": 2,
    "show_progress": False,
}


HIGH = {f"w{i}" for i in range(20, 30)}


def high_words(prompt: str, completion: str) -> float:
    words = completion.split()
    return sum(word in HIGH for word in words) / max(1, len(words))


def train(model: Any, **changed: Any) -> SteeringVectors:
    return train_steering_vectors(model, PROMPTS, high_words, **(BUDGET | changed))


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same(a: SteeringVectors, b: SteeringVectors, tolerance: float = 0.0) -> None:
    assert a.layers == b.layers
    for layer in a.layers:
        torch.testing.assert_close(a[layer], b[layer], atol=tolerance, rtol=tolerance)


def test_the_reward_rises(any_model: Any) -> None:
    before = measure_reward(any_model, PROMPTS, high_words, samples_per_prompt=40, max_new_tokens=3)
    vectors = train(any_model, steps=30, group_size=16)
    after = measure_reward(
        any_model,
        PROMPTS,
        high_words,
        samples_per_prompt=40,
        max_new_tokens=3,
        intervention=vectors.interventions(any_model),
    )
    assert after.mean > before.mean + 0.3
    low = after.gain_over(before).low
    assert low is not None and low > 0


def test_only_the_vectors_are_trained(any_model: Any) -> None:
    before = {name: value.clone() for name, value in any_model.state_dict().items()}
    wanted = [p.requires_grad for p in any_model.parameters()]
    vectors = train(any_model)
    assert vectors.layers == (0, 1)
    assert all(norm > 0 for norm in vectors.norms.values())
    for name, value in any_model.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)
    assert [p.requires_grad for p in any_model.parameters()] == wanted
    assert all(p.grad is None for p in any_model.parameters())


def test_some_layers_alone(any_model: Any) -> None:
    assert train(any_model, layers=[1]).layers == (1,)


def test_micro_batches_do_not_change_what_is_learnt(any_model: Any) -> None:
    assert_same(train(any_model, micro_batch_size=64), train(any_model, micro_batch_size=5), tolerance=1e-5)


def test_a_bridge_learns_the_same_in_compatibility_mode(sae_bridge: Any) -> None:
    first = train(sae_bridge)
    sae_bridge.enable_compatibility_mode(no_processing=True)
    assert_same(first, train(sae_bridge), tolerance=1e-5)


def test_seeds_decide(hooked_model: Any) -> None:
    torch.manual_seed(1)
    first = train(hooked_model)
    torch.manual_seed(2)
    assert_same(first, train(hooked_model))
    assert not torch.equal(first[0], train(hooked_model, seed=1)[0])


def test_the_global_generator_is_left_alone(hooked_model: Any) -> None:
    before = torch.get_rng_state(), repr(np.random.get_state())
    train(hooked_model)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == repr(np.random.get_state())


@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge"])
def test_gradients_reach_no_attached_sae(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    hook = "blocks.0.hook_out" if kind == "sae_bridge" else "blocks.0.hook_resid_post"
    sae = TopKSAE(TopKSAEConfig(d_in=16, d_sae=32, k=4, metadata=SAEMetadata(hook_name=hook)))
    model.add_sae(sae)
    vectors = train(model)
    assert all(norm > 0 for norm in vectors.norms.values())
    assert all(parameter.grad is None for parameter in sae.parameters())


def test_it_trains_where_gradients_are_switched_off(hooked_model: Any) -> None:
    expected = train(hooked_model)
    with torch.no_grad():
        assert_same(train(hooked_model), expected)
    with torch.inference_mode():
        assert_same(train(hooked_model), expected)


def test_numbers_of_numpy_are_settings(hooked_model: Any, tmp_path: Path) -> None:
    same: dict[str, Any] = {"group_size": np.int64(6), "temperature": np.float32(1), "seed": np.int64(0)}
    assert_same(train(hooked_model, folder=tmp_path, **same), train(hooked_model))


def test_a_folder_knows_model_and_reward(hooked_model: Any, tmp_path: Path) -> None:
    class Ends:
        def __init__(self, word: str) -> None:
            self.word = word

        def __repr__(self) -> str:
            return f"Ends({self.word!r})"

        def __call__(self, prompt: str, completion: str) -> float:
            return float(completion.endswith(self.word))

    train_steering_vectors(hooked_model, PROMPTS, Ends("w3"), folder=tmp_path, **BUDGET)
    with pytest.raises(ValueError, match=r"reward_name was .*w3.*w4"):
        train_steering_vectors(hooked_model, PROMPTS, Ends("w4"), folder=tmp_path, **BUDGET)
    with torch.no_grad():
        hooked_model.W_U.mul_(1.3)
    with pytest.raises(ValueError, match="model_weights was"):
        train_steering_vectors(hooked_model, PROMPTS, Ends("w3"), folder=tmp_path, **BUDGET)


def test_a_torn_log_is_mended(hooked_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(hooked_model, folder=tmp_path)
    (tmp_path / "vectors.safetensors").unlink()
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-60])
    train(hooked_model, folder=tmp_path)
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2, 3]
    assert "has lost the lines of 1 steps" in caplog.text


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_resuming_equals_not_having_stopped(any_model: Any, tmp_path: Path, stop_after: int) -> None:
    whole = train(any_model, folder=tmp_path / "whole")
    calls = 0

    def breaking(prompt: str, completion: str) -> float:
        nonlocal calls
        calls += 1
        if calls > stop_after * 18 + 7:
            raise KeyboardInterrupt
        return high_words(prompt, completion)

    breaking.__module__, breaking.__qualname__ = high_words.__module__, high_words.__qualname__
    with pytest.raises(KeyboardInterrupt):
        train_steering_vectors(any_model, PROMPTS, breaking, folder=tmp_path / "broken", **BUDGET)
    again = train(any_model, folder=tmp_path / "broken")
    assert_same(again, whole)
    without_time = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in log_lines(tmp_path / name)]
        for name in ("whole", "broken")
    ]
    assert without_time[0] == without_time[1]
    assert [line["step"] for line in log_lines(tmp_path / "broken")] == [1, 2, 3, 4]


def test_lines_after_the_checkpoint_are_dropped(hooked_model: Any, tmp_path: Path) -> None:
    train(hooked_model, folder=tmp_path)
    whole = log_lines(tmp_path)
    (tmp_path / "vectors.safetensors").unlink()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "rew')
    train(hooked_model, folder=tmp_path)
    assert log_lines(tmp_path) == whole


def test_a_finished_folder_gives_what_was_trained(hooked_model: Any, tmp_path: Path) -> None:
    first = train(hooked_model, folder=tmp_path)

    def never(prompt: str, completion: str) -> float:
        raise AssertionError(prompt + completion)

    never.__module__, never.__qualname__ = high_words.__module__, high_words.__qualname__
    assert_same(first, train_steering_vectors(hooked_model, PROMPTS, never, folder=tmp_path, **BUDGET))


def test_a_folder_of_other_settings_is_left_alone(hooked_model: Any, tmp_path: Path) -> None:
    train(hooked_model, folder=tmp_path)
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        train(hooked_model, folder=tmp_path, seed=1)


def test_a_truncated_checkpoint_is_named(hooked_model: Any, tmp_path: Path) -> None:
    train(hooked_model, folder=tmp_path)
    (tmp_path / "vectors.safetensors").unlink()
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    with pytest.raises(ValueError, match="is no checkpoint"):
        train(hooked_model, folder=tmp_path)


def test_the_log_says_what_happened(any_model: Any, tmp_path: Path) -> None:
    train(any_model, folder=tmp_path)
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["kl_to_base"] == pytest.approx(0, abs=1e-6)  # the vectors begin at zero
    assert lines[1]["kl_to_base"] is None
    assert lines[2]["kl_to_base"] > 0
    for line in lines:
        assert 0 <= line["reward"] <= 1
        assert 0 < line["entropy"] <= np.log(32)
        assert 1 <= line["length"] <= 3
        assert line["log_prob_drift"] < 1e-4
        assert line["learning_rate"] == {"0": 0.1, "1": 0.1}


def test_vectors_can_start_from_others(hooked_model: Any) -> None:
    first = train(hooked_model)
    second = train(hooked_model, start=first, seed=5)
    assert not torch.equal(first[0], second[0])
    with pytest.raises(ValueError, match="of the layers \\[0\\] to start with"):
        train(hooked_model, start=first.only(0))


@pytest.mark.parametrize("control", ["random", "shuffled"])
def test_controls_do_not_learn_the_reward(hooked_model: Any, tmp_path: Path, control: str) -> None:
    train(hooked_model, steps=12, group_size=16, control=control, folder=tmp_path)
    lines = log_lines(tmp_path)
    assert np.mean([line["reward"] for line in lines[-4:]]) < 0.6
    if control == "shuffled":
        assert all(line["trained_reward"] == pytest.approx(line["reward"]) for line in lines)


def test_early_stop_and_learning_rates_by_layer(hooked_model: Any, tmp_path: Path) -> None:
    vectors = train(
        hooked_model, early_stop=EarlyStop(reward=-1.0, window=2), lr={0: 0.1, 1: 1e-9}, folder=tmp_path
    )
    assert len(log_lines(tmp_path)) == 2
    assert vectors.norms[0] > 1e-2 > 1e-6 > vectors.norms[1]


def test_a_step_of_equal_rewards_moves_nothing(hooked_model: Any) -> None:
    vectors = train_steering_vectors(hooked_model, PROMPTS, lambda prompt, completion: 1.0, **BUDGET)
    assert all(norm == 0 for norm in vectors.norms.values())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (float("nan"), "gave nan"),
        (torch.tensor([1.0, 2.0]), "Tensor of the shape \\[2\\]"),
        (None, "gave None"),
        ("1", "gave '1'"),
        (10**400, "gave 1000"),
        (1j, "gave 1j"),
        (np.array("1"), "gave array"),
        (torch.tensor(1j), "gave tensor"),
    ],
)
def test_a_reward_that_is_no_number_is_named_with_its_sample(
    hooked_model: Any, tmp_path: Path, given: Any, said: str
) -> None:
    calls = 0

    def reward(prompt: str, completion: str) -> Any:
        nonlocal calls
        calls += 1
        return given if calls == 18 * 2 + 9 else high_words(prompt, completion)

    with pytest.raises(RewardError, match=said) as caught:
        train_steering_vectors(hooked_model, PROMPTS, reward, folder=tmp_path, **BUDGET)
    assert "sample 2 of the prompt" in str(caught.value)
    assert caught.value.prompt in PROMPTS
    assert caught.value.vectors is not None
    assert caught.value.vectors.provenance["steps_done"] == 2
    assert len(log_lines(tmp_path)) == 2


def test_a_reward_that_raises_is_named_with_its_sample(hooked_model: Any) -> None:
    def reward(prompt: str, completion: str) -> float:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(RewardError, match="raised ZeroDivisionError for sample 0 of the prompt .*by nothing"):
        train_steering_vectors(hooked_model, PROMPTS, reward, **BUDGET)


@pytest.mark.parametrize("given", [True, np.float32(1), torch.tensor(1.0), 1])
def test_any_single_number_is_a_reward(hooked_model: Any, given: Any) -> None:
    train_steering_vectors(hooked_model, PROMPTS, lambda p, c: given, **BUDGET)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"group_size": 1}, "group_size = 1. Give a whole number of at least 2"),
        ({"temperature": 0}, "temperature = 0"),
        ({"lr": 0.0}, "learning rate"),
        ({"lr": {0: 1e-3}}, "learning rates for the layers \\[0\\], but trains the layers \\[0, 1\\]"),
        ({"layers": [2]}, "the layer 2. This model has the layers 0 to 1"),
        ({"layers": []}, "layers = \\[\\]"),
        ({"control": "none"}, "control = 'none'"),
        ({"warmup": 1.5}, "warmup = 1.5"),
        ({"steps": 2.5}, "steps = 2.5"),
        ({"max_new_tokens": 15}, "of 4 tokens. With max_new_tokens = 15 that is more than the 16 tokens"),
        ({"early_stop": 0.9}, "early_stop = 0.9"),
        ({"stop_tokens": ["w3"]}, "stop_tokens = \\['w3'\\]"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(
    hooked_model: Any, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        train(hooked_model, folder=tmp_path / "new", **changed)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("prompts", "said"),
    [("w3", "Give a list of texts"), ([], "at least one"), (["w3", 4], "prompt 1 as int")],
)
def test_bad_prompts_are_refused(hooked_model: Any, prompts: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train_steering_vectors(hooked_model, prompts, high_words, **BUDGET)


def test_a_model_without_an_unembedding_is_refused(hooked_model: Any) -> None:
    del hooked_model.unembed
    with pytest.raises(ValueError, match="without an unembedding"):
        train(hooked_model)


def test_a_model_without_a_tokenizer_is_refused(hooked_model: Any) -> None:
    hooked_model.tokenizer = None
    with pytest.raises(ValueError, match="without a tokenizer"):
        train(hooked_model)


def test_vectors_of_another_width_are_refused(hooked_model: Any) -> None:
    other = SteeringVectors({0: torch.zeros(8), 1: torch.zeros(8)})
    with pytest.raises(ValueError, match="width 8"):
        train(hooked_model, start=other)


def test_early_stop_by_patience() -> None:
    stop = EarlyStop(patience=2, window=2)
    assert not stop.reached([1, 1, 0])
    assert stop.reached([1, 1, 0, 0])
    assert not stop.reached([1, 1, 0, 3])
    with pytest.raises(ValueError, match="neither a reward nor a patience"):
        EarlyStop()
    for wrong in ({"reward": float("nan")}, {"patience": 1.5}, {"reward": 1.0, "window": 2.5}):
        with pytest.raises(ValueError, match="EarlyStop was given"):
            EarlyStop(**wrong)  # pyright: ignore

"""Samples come from the model's distribution, and neither batch, padding nor cache decides what is written."""

from typing import Any

import pytest
import torch

from sae_lens_ext import AddVector, steer
from sae_lens_ext.steering.training.log_probs import kl_divergences, score
from sae_lens_ext.steering.training.rollout import Rollout, Sampling, entropy, finite_log_probs, sample

PROMPTS = [torch.tensor([0, 5, 6, 7]), torch.tensor([0, 9]), torch.tensor([0, 11, 12])]
SAMPLING = Sampling(max_new_tokens=5, temperature=0.8, stop_tokens=(0, 3, 4))


def seeds(n: int) -> list[tuple[int, ...]]:
    return [(7, prompt, i) for prompt in range(len(PROMPTS)) for i in range(n)]


def rows(n: int) -> list[torch.Tensor]:
    return [prompt for prompt in PROMPTS for _ in range(n)]


def test_log_probs_are_those_of_a_fresh_uncached_pass_over_each_text(any_model: Any) -> None:
    vector = torch.linspace(-1, 1, 16)
    with steer(any_model, AddVector("blocks.0.hook_resid_post", vector)):
        rollouts = sample(any_model, rows(4), seeds(4), SAMPLING)
        assert len({len(rollout.tokens) for rollout in rollouts}) > 1
        for rollout in rollouts:
            whole = torch.cat([rollout.prompt, rollout.tokens])[None]
            logits = any_model(whole, return_type="logits")[0, len(rollout.prompt) - 1 : -1]
            log_probs = (logits / SAMPLING.temperature).log_softmax(-1)
            own = log_probs.gather(1, rollout.tokens[:, None])[:, 0]
            torch.testing.assert_close(rollout.log_probs, own, atol=1e-4, rtol=0)
            torch.testing.assert_close(
                rollout.entropies, -(log_probs.exp() * log_probs).sum(-1), atol=1e-4, rtol=0
            )


@pytest.mark.parametrize("cached", [True, False])
def test_batch_padding_and_cache_do_not_change_what_is_written(any_model: Any, cached: bool) -> None:
    together = sample(any_model, rows(3), seeds(3), SAMPLING, cached=cached)
    for row, rollout in enumerate(together):
        prompt = row // 3
        (one,) = sample(any_model, [PROMPTS[prompt]], [seeds(3)[row]], SAMPLING)
        assert one.tokens.tolist() == rollout.tokens.tolist()
        assert one.ended == rollout.ended
        torch.testing.assert_close(one.log_probs, rollout.log_probs, atol=1e-5, rtol=1e-5)


def test_keeping_all_rows_changes_nothing(any_model: Any) -> None:
    dropped = sample(any_model, rows(3), seeds(3), SAMPLING)
    kept = sample(any_model, rows(3), seeds(3), SAMPLING, keep_rows=True)
    assert [one.tokens.tolist() for one in kept] == [one.tokens.tolist() for one in dropped]
    assert [one.ended for one in kept] == [one.ended for one in dropped]


def test_a_stop_token_ends_a_text_and_is_the_last_of_its_tokens(any_model: Any) -> None:
    rollouts = sample(any_model, rows(20), seeds(20), SAMPLING)
    assert {rollout.ended for rollout in rollouts} == {True, False}
    for rollout in rollouts:
        stops = [token in SAMPLING.stop_tokens for token in rollout.tokens.tolist()]
        assert not any(stops[:-1])
        assert stops[-1] == rollout.ended
        assert rollout.ended or len(rollout.tokens) == SAMPLING.max_new_tokens
        assert len(rollout.text_tokens) == len(rollout.tokens) - rollout.ended


def test_frequencies_are_the_models_probabilities(hooked_model: Any) -> None:
    n = 4_000
    one_token = Sampling(1, 1.5, ())
    rollouts = sample(hooked_model, PROMPTS[:1] * n, [(i,) for i in range(n)], one_token)
    counts = torch.bincount(torch.tensor([int(rollout.tokens[0]) for rollout in rollouts]), minlength=32)
    with torch.no_grad():
        probs = (hooked_model(PROMPTS[0][None], return_type="logits")[0, -1] / 1.5).softmax(-1)
    chi_squared = float(((counts - n * probs) ** 2 / (n * probs)).sum())
    assert chi_squared < 62  # the 99.9 % quantile at 31 degrees of freedom


@pytest.mark.parametrize("cached", [True, False])
def test_scoring_gives_what_sampling_did(any_model: Any, cached: bool) -> None:
    rollouts = sample(any_model, rows(3), seeds(3), SAMPLING)
    scored = score(any_model, rollouts, SAMPLING.temperature, cached=cached)
    log_probs = scored.of_tokens()
    for row, rollout in enumerate(rollouts):
        torch.testing.assert_close(
            log_probs[row, : len(rollout.tokens)], rollout.log_probs, atol=1e-4, rtol=0
        )
        assert not log_probs[row, len(rollout.tokens) :].any()
        assert scored.written[row].sum() == len(rollout.tokens)


def test_the_gradient_of_log_probs_is_that_of_uncached_passes_one_by_one(any_model: Any) -> None:
    vector = torch.zeros(16, requires_grad=True)
    any_model.requires_grad_(False)
    rollouts = sample(any_model, rows(3), seeds(3), SAMPLING)
    weights = torch.linspace(-1, 1, len(rollouts))
    with steer(any_model, AddVector("blocks.0.hook_resid_post", vector)):
        (weights * score(any_model, rollouts, 0.8).of_tokens().sum(1)).sum().backward()
        found, vector.grad = vector.grad, None
        total = torch.tensor(0.0)
        for weight, rollout in zip(weights, rollouts, strict=True):
            whole = torch.cat([rollout.prompt, rollout.tokens])[None]
            logits = any_model(whole, return_type="logits")[0, len(rollout.prompt) - 1 : -1]
            own = (logits / 0.8).log_softmax(-1).gather(1, rollout.tokens[:, None])
            total = total + weight * own.sum()
        total.backward()
    torch.testing.assert_close(found, vector.grad, atol=1e-4, rtol=1e-4)


def test_kl_and_entropy_by_hand() -> None:
    policy = torch.tensor([0.5, 0.5]).log()
    base = torch.tensor([0.25, 0.75]).log()
    expected = 0.5 * torch.log(torch.tensor(2.0)) + 0.5 * torch.log(torch.tensor(2 / 3))
    torch.testing.assert_close(kl_divergences(policy, base), expected)
    torch.testing.assert_close(entropy(policy), torch.log(torch.tensor(2.0)))
    assert entropy(torch.tensor([0.0, -torch.inf])) == 0


def test_nan_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity as logits"):
        finite_log_probs(torch.tensor([[1.0, float("nan")]]), 1.0)


def test_dropout_is_off_while_sampling(hooked_model: Any) -> None:
    hooked_model.train()
    sample(hooked_model, rows(1), seeds(1), SAMPLING)
    assert hooked_model.training


def test_a_rollout_that_did_not_end_keeps_its_last_token() -> None:
    tokens = torch.tensor([5, 6])
    assert Rollout(PROMPTS[0], tokens, torch.zeros(2), torch.zeros(2), ended=False).text_tokens.tolist() == [
        5,
        6,
    ]

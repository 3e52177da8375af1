"""One seed, one result, to the bit: twice, after other random numbers, and leaving the global generators as they were."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sae_lens_ext as s
from tests.reliability.calls.attempt import attempt
from tests.reliability.calls.material import PROMPTS, drawn, model, new_model, tokens
from tests.reliability.calls.steering_material import reward, sequences, vectors

QUIET: dict[str, Any] = {"show_progress": False}


def _training(seed: int) -> Any:
    trained = new_model()
    s.train_language_model(trained, tokens(), batch_size=2, epochs=2, seed=seed, **QUIET)
    return [parameter.detach() for parameter in trained.parameters()]


def _vectors(seed: int) -> Any:
    settings: dict[str, Any] = {"group_size": 4, "steps": 2, "max_new_tokens": 3, "lr": 0.1} | QUIET
    made = s.train_steering_vectors(model(), PROMPTS, reward, seed=seed, **settings)
    return [made[layer] for layer in made.layers]


def _doses(seed: int) -> Any:
    found = s.dose_response(
        model(),
        lambda dose: None if dose == 0 else s.AddVector("blocks.0.hook_resid_post", dose * drawn(16)),
        [0, 1],
        PROMPTS,
        behaviour=s.share_of_words(["w1"]),
        seed=seed,
        n_resamples=20,
        max_new_tokens=6,
        **QUIET,
    )
    return [found.texts(None), found.texts(1)]


OF_SEED: dict[str, Callable[[int], Any]] = {
    "LimeRouters": lambda seed: [*s.LimeRouters(3, 2, initial="random", seed=seed).parameters()],
    "arithmetic_examples": lambda seed: [*s.arithmetic_examples(3, 5, seed=seed).texts],
    "dose_response": _doses,
    "logit_lens": lambda seed: s.logit_lens(model(), drawn(16), seed=seed).random_largest,
    "measure_reward": lambda seed: (
        s.measure_reward(
            model(), PROMPTS, reward, samples_per_prompt=4, max_new_tokens=4, seed=seed, **QUIET
        ).tokens
    ),
    "persistence": lambda seed: (
        s.persistence(model(), vectors(), tokens(), n_resamples=20, seed=seed, **QUIET).diff_vector_interval
    ),
    "token_shift": lambda seed: (
        s.token_shift(model(), vectors(), sequences(), n_resamples=20, seed=seed, **QUIET).summary().to_json()
    ),
    "train_language_model": _training,
    "train_steering_vectors": _vectors,
}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@pytest.mark.parametrize("name", OF_SEED)
def test_a_seed_says_all_there_is_to_say(name: str) -> None:
    run = OF_SEED[name]
    first = attempt(lambda: run(1), model())
    assert first.kind == "result", first.what
    torch.manual_seed(77)
    assert _same(first.what, run(1))
    assert not _same(first.what, run(2))


@pytest.mark.parametrize("name", ["measure_reward", "train_steering_vectors", "train_language_model"])
def test_tiny_models_give_the_same_with_two_threads(name: str) -> None:
    run, threads = OF_SEED[name], torch.get_num_threads()
    one = run(1)
    try:
        torch.set_num_threads(2)
        assert _same(one, run(1))
    finally:
        torch.set_num_threads(threads)

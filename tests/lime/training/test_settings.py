"""The learning rate's course, the number of steps, and settings out of range."""

from typing import Any

import pytest

from sae_lens_ext.lime.training.settings import LanguageModelTrainingSettings

DEFAULT: dict[str, Any] = {
    "trained": "all",
    "epochs": 1.0,
    "max_steps": None,
    "batch_size": 16,
    "lr": 1e-3,
    "router_lr": 1e-2,
    "weight_decay": 0.1,
    "warmup": 0.02,
    "final_lr": 0.1,
    "clip": 1.0,
    "micro_batch_size": None,
    "autocast": False,
    "seed": 0,
    "validate_every": 0,
}


def settings(**given: Any) -> LanguageModelTrainingSettings:
    return LanguageModelTrainingSettings(**(DEFAULT | given))


def test_the_learning_rate_rises_linearly_and_falls_along_half_a_cosine():
    found = settings(warmup=0.2, final_lr=0.1)

    assert [found.share(step, 10) for step in (1, 2)] == [0.5, 1.0]
    assert found.share(6, 10) == pytest.approx(0.55)  # half way from 1 to 0.1
    assert found.share(10, 10) == pytest.approx(0.1)
    assert found.share(4, 10) > found.share(5, 10)


def test_without_warm_up_and_with_a_single_step_the_learning_rate_is_above_0():
    assert settings(warmup=0, final_lr=1).share(3, 10) == 1.0
    assert settings().share(1, 1) == 1.0


def test_epochs_may_be_fractions_and_max_steps_is_the_most():
    assert settings(epochs=2.5).steps(10) == 25
    assert settings(epochs=0.001).steps(10) == 1
    assert settings(epochs=3, max_steps=7).steps(10) == 7
    assert settings(epochs=1, max_steps=70).steps(10) == 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trained": "some"}, r"trained = 'some'\. Give \"all\", \"routers\" or \"model\"\."),
        ({"epochs": 0}, r"epochs = 0\.0\. Give a finite number above 0\."),
        ({"epochs": "one"}, r"epochs = 'one'\. Give a finite number"),
        ({"max_steps": 0}, r"max_steps = 0\. Give a whole number of at least 1\."),
        ({"batch_size": 2.5}, r"batch_size = 2\.5\. Give a whole number"),
        ({"micro_batch_size": -1}, r"micro_batch_size = -1\. Give a whole number"),
        ({"seed": -1}, r"seed = -1\. Give a whole number of at least 0\."),
        ({"validate_every": True}, r"validate_every = True\. Give a whole number"),
        ({"lr": float("nan")}, r"lr = nan\. Give a finite number"),
        ({"router_lr": 0}, r"router_lr = 0\.0\. Give a finite number above 0\."),
        ({"weight_decay": -0.1}, r"weight_decay = -0\.1\. Give a finite number of at least 0\."),
        ({"warmup": 1}, r"warmup = 1\.0\. Give the share of the steps"),
        ({"final_lr": 1.1}, r"final_lr = 1\.1\. Give the share of lr at the last step, from 0 to 1\."),
        ({"clip": 0}, r"clip = 0\.0\. Give the largest norm of the gradient, above 0, or None\."),
        ({"autocast": 1}, r"autocast = 1\. Give True or False\."),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"train_language_model was given {message}"):
        settings(**given)

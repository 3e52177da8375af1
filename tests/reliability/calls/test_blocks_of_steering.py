"""What stands after a block of steering or routing that broke off, whatever mode model and torch were in."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

import sae_lens_ext as s
from tests.reliability.calls.attempt import Outcome, attempt
from tests.reliability.calls.material import FIRST, LAST, PROMPTS, drawn, new_model, new_sae, tokens
from tests.reliability.calls.steering_material import reward, sequences, vectors

MODELS = ("hooked", "bridge")
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
TOKENS: dict[str, Any] = {
    "no rows": torch.zeros(0, 4, dtype=torch.long),
    "no columns": torch.zeros(2, 0, dtype=torch.long),
    "one dimension": torch.tensor([2, 3]),
    "three dimensions": torch.zeros(1, 2, 3, dtype=torch.long),
    "floats": torch.ones(2, 3),
    "bools": torch.ones(2, 3, dtype=torch.bool),
    "outside the vocabulary": torch.full((1, 3), 32),
    "negative": torch.full((1, 3), -1),
    "too long": torch.ones(1, 17, dtype=torch.long),
    "on meta": torch.ones(1, 3, dtype=torch.long, device="meta"),
    "one token": torch.ones(1, 1, dtype=torch.long),
}
SAME_TOKENS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "int32": lambda ids: ids.int(),
    "not contiguous": lambda ids: ids.T.contiguous().T,
    "every second column": lambda ids: ids.repeat_interleave(2, dim=1)[:, ::2],
}
READERS: dict[str, Callable[[Any, Any], Any]] = {
    "propagated_effect": lambda model, ids: (
        s.propagated_effect(model, vectors(), ids, show_progress=False).mean
    ),
    "persistence": lambda model, ids: (
        s.persistence(model, vectors(), ids, n_resamples=5, show_progress=False).diff_diff
    ),
    "token_shift": lambda model, ids: (
        s.token_shift(model, vectors(), ids, n_resamples=5, show_progress=False).shifts.token_delta
    ),
    "language_model_loss": lambda model, ids: torch.from_numpy(s.language_model_loss(model, ids).losses),
}


class _Broke(Exception):  # noqa: N818
    pass


def _breaks_off(block: AbstractContextManager[Any], model: Any) -> None:
    with pytest.raises(_Broke), block:
        model(tokens(), return_type="logits")
        raise _Broke


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_block_that_breaks_off_leaves_nothing(kind: str, mode: str) -> None:
    model, sae = new_model(kind).train(), new_sae()
    blocks = (
        lambda: s.steer(model, s.AddVector(FIRST, drawn(16)) + s.AblateFeature(sae, 3)),
        lambda: s.patched_paths(model, drawn(16), "skip_attn"),
        lambda: s.attach_lime(model),
    )
    for block in blocks:
        outcome = attempt(lambda block=block: _within(mode, lambda: _breaks_off(block(), model)), model)
        assert outcome.kind == "result", outcome.what


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def _within(mode: str, call: Callable[[], Any]) -> Any:
    with MODES[mode]():
        return call()


def test_blocks_left_in_any_order_leave_nothing() -> None:
    model = new_model()
    outer, inner = (s.steer(model, s.AddVector(FIRST, drawn(16))) for _ in range(2))

    def cross() -> None:
        outer.__enter__()
        inner.__enter__()
        model(tokens())
        outer.__exit__(None, None, None)
        model(tokens())
        inner.__exit__(None, None, None)

    assert attempt(cross, model).kind == "result"


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_functions_give_the_same_in_every_mode_of_torch(kind: str, mode: str) -> None:
    if mode == "autocast":
        pytest.skip("autocast is meant to change numbers")
    model = new_model(kind)
    for name, read in READERS.items():
        if name == "token_shift":
            ids: Any = sequences()
        else:
            ids = tokens()
        outcome = attempt(lambda: _within(mode, lambda: read(model, ids)), model)  # noqa: B023
        assert outcome.kind == "result", (name, outcome.what)
        assert _same(outcome.what, read(model, ids)), name


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("spoiled", TOKENS)
def test_tokens_that_cannot_be_read_are_refused(name: str, spoiled: str) -> None:
    model = new_model()
    outcome = attempt(lambda: READERS[name](model, TOKENS[spoiled]), model)
    assert outcome.kind == "refused", outcome.what


@pytest.mark.parametrize("name", ["propagated_effect", "persistence", "language_model_loss"])
@pytest.mark.parametrize("disguise", SAME_TOKENS)
def test_tokens_in_another_guise_give_the_same(name: str, disguise: str) -> None:
    model, plain = new_model(), tokens()
    assert _same(READERS[name](model, SAME_TOKENS[disguise](plain)), READERS[name](model, plain))


@pytest.mark.parametrize(
    "given",
    [torch.nan, torch.inf, -1.0, "1", None, [1.0], object(), torch.ones(2), 1j],
    ids=["nan", "inf", "negative", "text", "none", "list", "object", "tensor", "complex"],
)
def test_a_reward_of_another_kind_is_told_with_its_sample(given: Any) -> None:
    model = new_model()

    def call(function: Any, **more: Any) -> Outcome:
        arguments = {"max_new_tokens": 2, "show_progress": False} | more
        return attempt(lambda: function(model, PROMPTS, lambda *_: given, **arguments), model)

    for outcome in (
        call(s.measure_reward, samples_per_prompt=2),
        call(s.train_steering_vectors, group_size=2, steps=1, prompts_per_step=1),
    ):
        assert outcome.kind == ("result" if isinstance(given, float) and given == -1 else "refused"), (
            outcome.what
        )


@pytest.mark.parametrize("kind", MODELS)
def test_training_under_inference_mode_or_of_a_frozen_model_is_the_same(kind: str) -> None:
    def trained(mode: str, *, frozen: bool) -> s.SteeringVectors:
        model = new_model(kind)
        for parameter in model.parameters():
            parameter.requires_grad_(not frozen)
        settings: dict[str, Any] = {"group_size": 4, "steps": 2, "max_new_tokens": 2, "lr": 0.1}
        outcome = attempt(
            lambda: _within(
                mode,
                lambda: s.train_steering_vectors(model, PROMPTS, reward, **settings, show_progress=False),
            ),
            model,
        )
        assert outcome.kind == "result", outcome.what
        return outcome.what

    plain = trained("plain", frozen=False)
    for mode, frozen in (("inference_mode", False), ("no_grad", False), ("plain", True)):
        other = trained(mode, frozen=frozen)
        assert all(torch.equal(plain[layer], other[layer]) for layer in plain.layers)


def test_more_than_float32_holds_is_refused_before_the_model_runs() -> None:
    model = new_model()
    for made in (
        s.AddVector(FIRST, drawn(16), 1e300),
        s.ClampFeature(new_sae(), 3, 1e300),
        s.ScaleFeature(new_sae(), 3, 1e300),
    ):

        def run(made: Any = made) -> None:
            with s.steer(model, made):
                model(tokens())

        outcome = attempt(run, model)
        assert outcome.kind == "refused" and "infinite" in outcome.what, outcome.what


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_steered_model_of_half_precision_stays_finite(precision: torch.dtype) -> None:
    model = new_model().to(precision)
    with s.steer(model, s.AddVector(LAST, drawn(16)) + s.AblateFeature(new_sae(), 3)), torch.no_grad():
        assert torch.isfinite(model(tokens(), return_type="logits")).all()

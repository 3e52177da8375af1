"""The conduct of `steer`: what it leaves behind, nesting, attached SAEs, and what never happened."""

import contextlib
from typing import Any

import pytest
import torch
from sae_lens import Transcoder, TranscoderConfig

from sae_lens_ext.language_model import Site, hooked, read_activations
from sae_lens_ext.steering import AblateFeature, AddFeature, AddVector, ClampFeature, ScaleFeature, steer
from tests.steering.naive import D_MODEL, EARLY, generate, often_active, sae_at, state_of, steered_logits

VECTOR = torch.linspace(-2, 2, D_MODEL)
LATE = "blocks.1.hook_resid_post"


def read(model: Any, tokens: torch.Tensor, hook_name: str = EARLY) -> torch.Tensor:
    return read_activations(model, tokens, Site(hook_name))


def canonical(model: Any, hook_name: str) -> str:
    return (
        hook_name
        if "Bridge" not in type(model).__name__
        else hook_name.replace("hook_resid_post", "hook_out")
    )


def test_a_forward_pass_is_steered(any_model: Any, tokens: torch.Tensor) -> None:
    steering = AddVector(EARLY, VECTOR, positions=[0, -1])
    with torch.no_grad(), steer(any_model, steering):
        logits = any_model(tokens)
    torch.testing.assert_close(logits, steered_logits(any_model, tokens, lambda x: VECTOR, positions=[0, -1]))


def test_the_cache_shows_the_steered_activation(any_model: Any, tokens: torch.Tensor) -> None:
    before = read(any_model, tokens)
    name = canonical(any_model, EARLY)
    with torch.no_grad(), steer(any_model, AddVector(EARLY, VECTOR, positions=3)):
        _, cache = any_model.run_with_cache(tokens)
    assert torch.equal(cache[name][:, 3], before[:, 3] + VECTOR)
    assert torch.equal(cache[name][:, :3], before[:, :3]) and torch.equal(cache[name][:, 4:], before[:, 4:])


def test_hooks_of_ones_own_run_beside(any_model: Any, tokens: torch.Tensor) -> None:
    seen = []
    own = (canonical(any_model, EARLY), lambda x, hook: seen.append(x.clone()))
    with torch.no_grad(), steer(any_model, AddVector(EARLY, VECTOR)):
        any_model.run_with_hooks(tokens, fwd_hooks=[own])
    assert torch.equal(seen[0], read(any_model, tokens) + VECTOR)


def test_hooks_for_run_with_hooks_do_the_same(any_model: Any, tokens: torch.Tensor) -> None:
    sae = sae_at(EARLY)
    steering = AddVector(LATE, VECTOR, positions=-1) + AblateFeature(
        sae, often_active(sae, read(any_model, tokens))
    )
    with torch.no_grad():
        with steer(any_model, steering):
            expected = any_model(tokens)
        found = any_model.run_with_hooks(tokens, fwd_hooks=steering.hooks(any_model))
    assert torch.equal(found, expected)
    assert [name for name, _ in steering.hooks(any_model)] == [
        canonical(any_model, name) for name in (LATE, EARLY)
    ]
    assert [name for name, _ in steering.hooks()] == [LATE, EARLY]
    with pytest.raises(ValueError, match="has no hook 'blocks.7.hook_resid_post'"):
        AddVector("blocks.7.hook_resid_post", VECTOR).hooks(any_model)


def test_two_names_of_one_hook_are_one_hook(sae_bridge: Any, tokens: torch.Tensor) -> None:
    sae = sae_at(EARLY)
    index = often_active(sae, read(sae_bridge, tokens))
    with torch.no_grad():
        with steer(sae_bridge, AddVector("blocks.0.hook_out", VECTOR) + AblateFeature(sae, index)):
            both = sae_bridge(tokens)
        with steer(sae_bridge, AddVector(EARLY, VECTOR), AblateFeature(sae, index)):
            assert torch.equal(sae_bridge(tokens), both)


def test_nested_blocks_act_one_after_the_other(any_model: Any, tokens: torch.Tensor) -> None:
    x, sae = read(any_model, tokens), sae_at(EARLY)
    index = often_active(sae, x + VECTOR)
    with torch.no_grad():
        a, row = sae.encode(x + VECTOR)[..., index, None], sae.W_dec[index]
        with steer(any_model, AddVector(EARLY, VECTOR)), steer(any_model, AblateFeature(sae, index)):
            inside = any_model.run_with_cache(tokens)[1][canonical(any_model, EARLY)]
        with steer(any_model, AddVector(EARLY, VECTOR), AblateFeature(sae, index)):
            together = any_model.run_with_cache(tokens)[1][canonical(any_model, EARLY)]
        torch.testing.assert_close(inside, x + VECTOR - a * row)
        torch.testing.assert_close(together, x + VECTOR - sae.encode(x)[..., index, None] * row)


@pytest.mark.parametrize("first_out", ["inner", "outer"])
def test_nested_blocks_end_in_any_order(any_model: Any, tokens: torch.Tensor, first_out: str) -> None:
    before, prompts = state_of(any_model), tokens[:2, :5]
    positions = [-1, 6]
    outer, inner = contextlib.ExitStack(), contextlib.ExitStack()
    outer.enter_context(steer(any_model, AddVector(EARLY, VECTOR, positions=positions)))
    inner.enter_context(steer(any_model, AddVector(EARLY, VECTOR, 2.0, positions=positions)))
    generate(any_model, prompts)
    (inner if first_out == "inner" else outer).close()
    found = generate(any_model, prompts)
    (outer if first_out == "inner" else inner).close()
    assert state_of(any_model) == before
    strength = 1.0 if first_out == "inner" else 2.0
    with steer(any_model, AddVector(EARLY, VECTOR, strength, positions=positions)):
        expected = generate(any_model, prompts)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_nothing_is_left_behind(any_model: Any, tokens: torch.Tensor) -> None:
    before, plain = state_of(any_model), any_model(tokens)
    own = lambda x, hook: None  # noqa: E731
    with steer(any_model, AddVector(EARLY, VECTOR), AddFeature(sae_at(LATE), 3, 1.0)):
        assert state_of(any_model) != before
        generate(any_model, tokens[:, :4])
    assert state_of(any_model) == before and torch.equal(any_model(tokens), plain)
    any_model.run_with_hooks(tokens, fwd_hooks=[(canonical(any_model, EARLY), own)])
    assert state_of(any_model) == before


@pytest.mark.parametrize("where", ["block", "hook", "generate", "pass"])
def test_an_exception_goes_through_and_leaves_nothing(
    any_model: Any, tokens: torch.Tensor, where: str
) -> None:
    before, plain = state_of(any_model), any_model(tokens)

    class Halt(Exception):  # noqa: N818
        pass

    def halt(x: torch.Tensor) -> torch.Tensor:
        raise Halt

    wrong = AddVector(EARLY, torch.ones(3)) if where == "pass" else AddVector(EARLY, VECTOR)
    with pytest.raises(ValueError if where == "pass" else Halt), steer(any_model, wrong):
        if where == "block":
            raise Halt
        if where == "pass":
            any_model(tokens)
        with hooked(any_model, {LATE: halt}):
            any_model(tokens) if where == "hook" else any_model.generate(tokens[:, :4], verbose=False)
    assert state_of(any_model) == before and torch.equal(any_model(tokens), plain)


def test_a_model_with_a_forward_of_its_own_gets_it_back(hooked_model: Any, tokens: torch.Tensor) -> None:
    own = hooked_model.forward
    hooked_model.forward = own
    with steer(hooked_model, AddVector(EARLY, VECTOR)):
        hooked_model(tokens)
    assert vars(hooked_model)["forward"] is own
    with steer(hooked_model, AddVector(EARLY, VECTOR)):
        wrapped = hooked_model.forward
        hooked_model.forward = other = lambda *args, **kwargs: wrapped(*args, **kwargs)
        hooked_model(tokens)
    assert vars(hooked_model)["forward"] is other  # somebody else's is left
    plain = hooked_model(tokens)
    del hooked_model.forward
    assert torch.equal(plain, hooked_model(tokens))


@pytest.mark.parametrize("use_error_term", [True, False])
@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge"])
def test_an_attached_saes_output_is_what_is_steered(
    request: pytest.FixtureRequest, tokens: torch.Tensor, kind: str, use_error_term: bool
) -> None:
    model = request.getfixturevalue(kind)
    x, sae = read(model, tokens), sae_at(EARLY, seed=4)
    attached = sae_at(EARLY)
    with torch.no_grad():
        out = x if use_error_term else attached(x)
        index = often_active(sae, out)
        expected = out + VECTOR - sae.encode(out)[..., index, None] * sae.W_dec[index]
        model.add_sae(attached, use_error_term=use_error_term)
        before, seen = state_of(model), []
        steering = AddVector(EARLY, VECTOR) + AblateFeature(sae, index)
        with (
            steer(model, steering),
            hooked(model, {"blocks.1.hook_resid_pre": lambda x: seen.append(x.clone())}),
        ):
            logits = model(tokens)
        assert state_of(model) == before
        torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.run_with_hooks(tokens, fwd_hooks=steering.hooks(model)), logits)
        model.reset_saes()


@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge"])
def test_the_attached_sae_itself_is_steered_unseen_by_its_own_hooks(
    request: pytest.FixtureRequest, tokens: torch.Tensor, kind: str
) -> None:
    model, sae = request.getfixturevalue(kind), sae_at(EARLY)
    index = often_active(sae, read(model, tokens))
    model.add_sae(sae, use_error_term=True)
    name = canonical(model, EARLY) + ".hook_sae_acts_post"
    with torch.no_grad():
        plain = model.run_with_cache(tokens)[1][name]
        with steer(model, ClampFeature(sae, index, 9.0)):
            _, cache = model.run_with_cache(tokens)
        assert torch.equal(cache[name], plain)
        out = cache[canonical(model, EARLY) + ".hook_sae_output"]
        x = out - (9.0 - plain[..., index, None]) * sae.W_dec[index]
        model.reset_saes()
        torch.testing.assert_close(x, read(model, tokens), atol=1e-4, rtol=1e-4)
        with steer(model, ClampFeature(sae, index, 9.0)):
            torch.testing.assert_close(
                model.run_with_cache(tokens)[1][canonical(model, EARLY)], out, atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge"])
def test_saes_attached_and_removed_inside_the_block_are_followed(
    request: pytest.FixtureRequest, tokens: torch.Tensor, kind: str
) -> None:
    model, sae = request.getfixturevalue(kind), sae_at(EARLY)
    with torch.no_grad():
        plain = model(tokens)
        with steer(model, AddVector(EARLY, VECTOR)):
            steered = model(tokens)
            torch.testing.assert_close(model.run_with_saes(tokens, saes=[sae], use_error_term=True), steered)
            assert torch.equal(model(tokens), steered)
        assert torch.equal(model(tokens), plain)


def test_a_hook_that_run_with_hooks_cannot_reach_is_an_error(sae_bridge: Any, tokens: torch.Tensor) -> None:
    sae_bridge.add_sae(sae_at(EARLY))
    sae_bridge.reset_saes()
    steering = AddVector(EARLY, VECTOR)
    with pytest.raises(ValueError, match="no longer reaches 'blocks.0.hook_resid_post' by name"):
        steering.hooks(sae_bridge)
    expected = steered_logits(sae_bridge, tokens, lambda x: VECTOR)
    with torch.no_grad(), steer(sae_bridge, steering):
        torch.testing.assert_close(sae_bridge(tokens), expected)


def test_the_hook_an_attached_transcoder_reads_is_refused(hooked_model: Any) -> None:
    transcoder = Transcoder(
        TranscoderConfig(d_in=D_MODEL, d_out=D_MODEL, d_sae=24, apply_b_dec_to_input=False)
    )
    names = ("blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out")
    transcoder.cfg.metadata.hook_name, transcoder.cfg.metadata.hook_name_out = names
    hooked_model.add_sae(transcoder)
    with (
        pytest.raises(ValueError, match="transcoder that is attached"),
        steer(hooked_model, AddVector(names[0], VECTOR)),
    ):
        pass
    assert AddVector(names[1], VECTOR).hooks(hooked_model)[0][0] == names[1] + ".hook_sae_output"


def test_many_features_are_the_sum_of_each(any_model: Any, tokens: torch.Tensor) -> None:
    sae, x = sae_at(EARLY), read(any_model, tokens)
    parts = [ScaleFeature(sae, i, -1.0, positions=[i % 4, -1]) for i in range(24)]
    parts += [AddFeature(sae, i, 0.5, positions=slice(i % 3, None)) for i in range(24)]
    with torch.no_grad():
        changes = torch.zeros_like(x)
        for part in parts:
            changes += part.hooks()[0][1](x) - x
        with steer(any_model, *parts):
            found = any_model.run_with_cache(tokens)[1][canonical(any_model, EARLY)]
    torch.testing.assert_close(found, x + changes, atol=1e-4, rtol=1e-4)


def test_gradients_through_the_model_reach_the_vector(any_model: Any, tokens: torch.Tensor) -> None:
    vector = VECTOR.clone().requires_grad_()
    with steer(any_model, AddVector(EARLY, vector, 2.0, positions=slice(1, 5))):
        any_model(tokens, return_type="loss").backward()
    shift = torch.zeros(4, tokens.shape[1], D_MODEL, requires_grad=True)
    with hooked(any_model, {EARLY: lambda x: x + shift}):
        with torch.no_grad():
            shift[:, 1:5] = 2.0 * VECTOR
        any_model(tokens, return_type="loss").backward()
    torch.testing.assert_close(vector.grad, 2.0 * shift.grad[:, 1:5].sum(dim=(0, 1)))
    assert vector.grad.norm() > 0

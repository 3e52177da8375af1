"""Routing on whole models: against a loop, at the identity, under a cache."""

from typing import Any

import pytest
import torch

from sae_lens_ext.language_model import hooked, read_texts
from sae_lens_ext.lime import attach_lime
from sae_lens_ext.ops.layer_routing import route_naive
from tests.lime.passes import logits


def test_at_the_identity_the_output_is_that_of_the_model(any_carrier: Any, tokens: torch.Tensor):
    before = logits(any_carrier, tokens)
    attach_lime(any_carrier)

    torch.testing.assert_close(logits(any_carrier, tokens), before, atol=1e-5, rtol=0)


def test_routing_equals_a_loop_over_layers_and_heads(any_carrier: Any, tokens: torch.Tensor):
    model = any_carrier
    routers = attach_lime(model, initial="random", seed=3)
    with routers.recording() as memory:
        routed = logits(model, tokens)
    routers.detach()

    # The same pass with hooks of our own, which mix by the loop.
    own: dict[str, list[torch.Tensor]] = {"k": [], "v": []}

    def mixing(layer: int, name: str):
        def run(x: torch.Tensor) -> torch.Tensor:
            own[name].append(x)
            return x if layer == 0 else route_naive(own[name], routers.weights[layer])

        return run

    functions = {
        f"blocks.{layer}.attn.hook_{name}": mixing(layer, name)
        for layer in range(model.cfg.n_layers)
        for name in own
    }
    with hooked(model, functions):
        by_loop = logits(model, tokens)
    torch.testing.assert_close(routed, by_loop, atol=1e-4, rtol=1e-4)
    for layer in range(model.cfg.n_layers):
        torch.testing.assert_close(memory.keys[layer], own["k"][layer].detach(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            memory.routed_values[layer],
            route_naive(own["v"][: layer + 1], routers.weights[layer]).detach(),
            atol=1e-4,
            rtol=1e-4,
        )


def test_other_routers_give_another_output(any_carrier: Any, tokens: torch.Tensor):
    before = logits(any_carrier, tokens)
    attach_lime(any_carrier, initial="random")

    assert (logits(any_carrier, tokens) - before).abs().max() > 1e-3


@pytest.mark.parametrize("initial", ["identity", "random"])
def test_gradient_reaches_the_routers_of_every_layer_and_nothing_else_of_them(
    any_carrier: Any, tokens: torch.Tensor, initial: Any
):
    routers = attach_lime(any_carrier, initial=initial)
    any_carrier(tokens, return_type="logits").float().pow(2).mean().backward()

    assert len(list(routers.parameters())) == any_carrier.cfg.n_layers - 1
    for layer in range(1, any_carrier.cfg.n_layers):
        gradient = routers.weights[layer].grad
        assert gradient is not None and bool(gradient.isfinite().all())
        assert bool((gradient.abs().amax(dim=(0, 2)) > 0).all()), "every source layer must be learnt about"
    assert not routers.weights[0].requires_grad


def test_the_routers_gradient_is_that_of_small_changes(grouped_hooked: Any, tokens: torch.Tensor):
    model = grouped_hooked.double()
    routers = attach_lime(model, initial="random").double()

    def loss() -> torch.Tensor:
        return model(tokens, return_type="logits").pow(2).mean()

    loss().backward()
    weights, step = routers.weights[2], 1e-3  # the norms compute in single precision
    for place in [(0, 0, 1), (1, 1, 0), (1, 2, 1)]:
        with torch.no_grad():
            weights[place] += step
            up = loss()
            weights[place] -= 2 * step
            down = loss()
            weights[place] += step
        torch.testing.assert_close(weights.grad[place], (up - down) / (2 * step), rtol=5e-3, atol=1e-5)


def test_later_tokens_change_nothing_before_them(any_carrier: Any, tokens: torch.Tensor):
    attach_lime(any_carrier, initial="random")
    changed = tokens.clone()
    changed[:, 8:] = changed[:, 8:].flip(1)

    torch.testing.assert_close(
        logits(any_carrier, changed)[:, :8], logits(any_carrier, tokens)[:, :8], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge", "grouped_hooked", "grouped_llama"])
def test_generation_with_a_cache_equals_generation_without(
    kind: str, tokens: torch.Tensor, request: pytest.FixtureRequest
):
    model = request.getfixturevalue(kind)
    attach_lime(model, initial="random")
    prompt = tokens[:2, :5]

    def generate(*, cache: bool) -> torch.Tensor:
        return model.generate(
            prompt,
            max_new_tokens=8,
            do_sample=False,
            use_past_kv_cache=cache,
            stop_at_eos=False,
            verbose=False,
            return_type="tokens",
        )

    assert torch.equal(generate(cache=True), generate(cache=False))


@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge", "grouped_hooked", "grouped_llama"])
def test_reading_on_with_a_cache_equals_reading_at_once(
    kind: str, tokens: torch.Tensor, request: pytest.FixtureRequest
):
    model = request.getfixturevalue(kind)
    attach_lime(model, initial="random")
    with torch.no_grad():
        continuation = read_texts(model, [row[:5] for row in tokens])
        parts = [continuation.go_on(tokens[:, 5:6]), continuation.go_on(tokens[:, 6:])]

    torch.testing.assert_close(torch.cat(parts, 1), logits(model, tokens)[:, 5:], atol=1e-5, rtol=1e-4)


def test_logits_with_a_cache_equal_those_without(grouped_hooked: Any, tokens: torch.Tensor):
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    attach_lime(grouped_hooked, initial="random")
    cache = TransformerLensKeyValueCache.init_cache(grouped_hooked.cfg, "cpu", len(tokens))
    parts = [
        grouped_hooked(part, return_type="logits", past_kv_cache=cache)
        for part in (tokens[:, :6], tokens[:, 6:7], tokens[:, 7:])
    ]

    torch.testing.assert_close(
        torch.cat(parts, 1), grouped_hooked(tokens, return_type="logits"), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
def test_attaching_works_where_gradients_are_off(hooked_model: Any, tokens: torch.Tensor, grad: Any):
    before = logits(hooked_model, tokens)
    with grad():
        attach_lime(hooked_model)
        after = hooked_model(tokens, return_type="logits")

    torch.testing.assert_close(after.clone(), before, atol=1e-5, rtol=0)

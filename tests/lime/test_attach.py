"""Routing on whole models: against a loop, at the identity, under a cache, and gone when detached."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from sae_lens_ext.language_model import find_hook_point, hooked, read_texts
from sae_lens_ext.lime import LimeRouters, attach_lime
from sae_lens_ext.ops.layer_routing import route_naive


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens, return_type="logits").detach()


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


def test_hooks_added_later_see_routed_values(any_carrier: Any, tokens: torch.Tensor):
    routers = attach_lime(any_carrier, initial="random")
    with routers.recording() as memory:
        _, cache = any_carrier.run_with_cache(tokens)
    name = next(n for n in cache if n in ("blocks.1.attn.hook_v", "blocks.1.attn.v.hook_out"))

    torch.testing.assert_close(cache[name].reshape(memory.routed_values[1].shape), memory.routed_values[1])
    assert not torch.allclose(memory.values[1], memory.routed_values[1])


def test_detached_routers_leave_nothing_behind(any_carrier: Any, tokens: torch.Tensor):
    before = logits(any_carrier, tokens)
    with attach_lime(any_carrier, initial="random") as routers:
        assert routers.model is any_carrier
    points = [
        find_hook_point(any_carrier, f"blocks.{layer}.attn.hook_k")
        for layer in range(any_carrier.cfg.n_layers)
    ]

    assert routers.model is None
    assert not any(point.fwd_hooks or point._forward_hooks for point in points)
    assert torch.equal(logits(any_carrier, tokens), before)
    routers.detach()  # once more does nothing


def test_other_hooks_at_the_same_point_stay_when_routers_go(hooked_model: Any, tokens: torch.Tensor):
    routers = attach_lime(hooked_model)
    seen: list[Any] = []
    find_hook_point(hooked_model, "blocks.1.attn.hook_k").add_hook(
        lambda x, hook: seen.append(x.shape), is_permanent=True
    )
    routers.detach()
    logits(hooked_model, tokens)

    assert len(seen) == 1


def test_resetting_the_models_hooks_leaves_routing_on(any_carrier: Any, tokens: torch.Tensor):
    attach_lime(any_carrier, initial="random")
    routed = logits(any_carrier, tokens)
    any_carrier.reset_hooks()

    assert torch.equal(logits(any_carrier, tokens), routed)


def test_taking_permanent_hooks_away_detaches(hooked_model: Any):
    routers = attach_lime(hooked_model)
    hooked_model.reset_hooks(including_permanent=True)

    assert routers.model is None
    with pytest.raises(RuntimeError, match="cannot pause: they are attached to no model"), routers.paused():
        pass


def test_paused_routers_do_nothing(any_carrier: Any, tokens: torch.Tensor):
    before = logits(any_carrier, tokens)
    routers = attach_lime(any_carrier, initial="random")
    with routers.paused():
        assert torch.equal(logits(any_carrier, tokens), before)
        with pytest.raises(RuntimeError, match="are paused"), routers.recording():
            pass

    assert not torch.equal(logits(any_carrier, tokens), before)


def test_after_a_pass_that_broke_off_the_next_is_right(hooked_model: Any, tokens: torch.Tensor):
    routers = attach_lime(hooked_model, initial="random")
    expected = logits(hooked_model, tokens)

    def fail(x: torch.Tensor) -> None:
        raise KeyError(x.shape)

    with pytest.raises(KeyError), hooked(hooked_model, {"blocks.1.attn.hook_q": fail}):
        logits(hooked_model, tokens)
    hooked_model(tokens[:2], stop_at_layer=1)

    assert torch.equal(logits(hooked_model, tokens), expected)
    assert routers.model is hooked_model


def test_a_pass_that_begins_in_the_middle_is_refused(hooked_model: Any, tokens: torch.Tensor):
    routers = attach_lime(hooked_model)
    residual = torch.zeros(*tokens.shape, 16)

    with pytest.raises(
        RuntimeError, match="layer 1 came when those of 0 layers were there.*no start_at_layer"
    ):
        hooked_model(residual, start_at_layer=1)
    with routers.paused():
        hooked_model(residual, start_at_layer=1)


def test_heads_that_change_after_attaching_are_refused(grouped_hooked: Any):
    attach_lime(grouped_hooked)
    point = find_hook_point(grouped_hooked, "blocks.0.attn.hook_k")

    with pytest.raises(
        RuntimeError,
        match=r"attached to 2 key-value heads, but the keys of layer 0 have the shape \(1, 4, 4, 4\)",
    ):
        point(torch.zeros(1, 4, 4, 4))


def test_a_second_attachment_is_refused(any_carrier: Any):
    routers = attach_lime(any_carrier)

    with pytest.raises(ValueError, match=r"has LIMe's routers attached already. Detach those first"):
        attach_lime(any_carrier)
    with pytest.raises(ValueError, match="attached already"):
        attach_lime(any_carrier, copy.deepcopy(routers))


def test_routers_of_another_size_or_place_are_refused(hooked_model: Any, native_bridge: Any):
    with pytest.raises(
        ValueError, match="for 5 layers of 2 key-value heads, but this HookedSAETransformer has 2 of 2"
    ):
        attach_lime(hooked_model, LimeRouters(5, 2))
    routers = attach_lime(hooked_model)
    with pytest.raises(ValueError, match="attached to another model"):
        attach_lime(native_bridge, routers)


def test_what_is_no_hooked_model_is_refused():
    with pytest.raises(ValueError, match="no model with hook points"):
        attach_lime(torch.nn.Linear(2, 2))


def test_a_model_whose_hooks_are_not_read_is_refused(hooked_model: Any, monkeypatch: pytest.MonkeyPatch):
    attention = hooked_model.blocks[1].attn
    project = attention.calculate_qkv_matrices

    def ignoring(*inputs: Any) -> Any:
        q, _, v = project(*inputs)
        return q, torch.zeros_like(q), v

    monkeypatch.setattr(attention, "calculate_qkv_matrices", ignoring)
    with pytest.raises(ValueError, match="returns at layer 1's keys is not what attention reads there"):
        attach_lime(hooked_model)
    assert not find_hook_point(hooked_model, "blocks.0.attn.hook_k").fwd_hooks


def test_keys_after_rotary_embedding_are_refused(grouped_hooked: Any, monkeypatch: pytest.MonkeyPatch):
    attention = grouped_hooked.blocks[0].attn
    project = attention.calculate_qkv_matrices
    hook_k = attention.hook_k
    monkeypatch.setattr(hook_k, "forward", lambda x: attention.apply_rotary(x))
    assert project is not None

    with pytest.raises(ValueError, match="hook_k fires after rotary embedding"):
        attach_lime(grouped_hooked)


def test_a_model_with_a_layer_of_no_attention_is_refused(hooked_model: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hooked_model.cfg, "n_layers", 3)

    with pytest.raises(ValueError, match="layer 2 has no attention with hook_k and hook_v"):
        attach_lime(hooked_model)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
def test_attaching_works_where_gradients_are_off(hooked_model: Any, tokens: torch.Tensor, grad: Any):
    before = logits(hooked_model, tokens)
    with grad():
        attach_lime(hooked_model)
        after = hooked_model(tokens, return_type="logits")

    torch.testing.assert_close(after.clone(), before, atol=1e-5, rtol=0)


def test_a_deep_copy_of_routers_is_attached_to_nothing(hooked_model: Any):
    routers = attach_lime(hooked_model, initial="random")
    copied = copy.deepcopy(routers)

    assert copied.model is None and routers.model is hooked_model
    assert torch.equal(copied.weights[1], routers.weights[1])
    assert copied.weights[1] is not routers.weights[1]


def test_attaching_again_gives_what_was_before(hooked_model: Any, tokens: torch.Tensor):
    routers = attach_lime(hooked_model, initial="random")
    routed = logits(hooked_model, tokens)
    routers.detach()
    routers.attach(hooked_model)

    assert torch.equal(logits(hooked_model, tokens), routed)


@pytest.mark.parametrize("until", [None, 1])
def test_the_memory_of_a_pass_is_freed(hooked_model: Any, tokens: torch.Tensor, until: int | None):
    routers = attach_lime(hooked_model, initial="random")
    hooked_model(tokens, stop_at_layer=until)
    memories = [routers._attachment.memory(name) for name in ("keys", "values")]

    assert all(memory._rows is None and memory._block is None for memory in memories)


def test_a_pass_that_begins_in_the_middle_reads_nothing_of_one_that_stopped_there(
    hooked_model: Any, tokens: torch.Tensor
):
    attach_lime(hooked_model, initial="random")
    hooked_model.run_with_hooks(tokens, stop_at_layer=1)  # which does not call the model, but its forward

    with pytest.raises(RuntimeError, match="came when those of 0 layers were there"):
        hooked_model(torch.zeros(*tokens.shape, 16), start_at_layer=1)


def test_a_deep_copy_of_the_model_shares_the_routers_until_they_are_detached(
    hooked_model: Any, tokens: torch.Tensor
):
    before = logits(hooked_model, tokens)
    routers = attach_lime(hooked_model, initial="random")
    copied = copy.deepcopy(hooked_model)
    routed = logits(hooked_model, tokens)
    assert torch.equal(logits(copied, tokens), routed)
    with pytest.raises(ValueError, match="by detaching those of the original"):
        attach_lime(copied)

    routers.detach()
    assert torch.equal(logits(copied, tokens), before)
    attach_lime(copied)


def test_an_ablation_in_place_works_as_without_routers(any_carrier: Any, tokens: torch.Tensor):
    attach_lime(any_carrier, initial="random")

    def ablated(v: torch.Tensor) -> torch.Tensor:
        v[:, :, 0] = 0.0
        return v

    def apart(v: torch.Tensor) -> torch.Tensor:
        v = v.clone()
        v[:, :, 0] = 0.0
        return v

    for layer in (0, 1):
        found: list[torch.Tensor] = []
        for function in (ablated, apart):
            with torch.no_grad(), hooked(any_carrier, {f"blocks.{layer}.attn.hook_v": function}):
                found.append(logits(any_carrier, tokens))
        torch.testing.assert_close(*found)
    with hooked(any_carrier, {"blocks.1.attn.hook_v": ablated}):
        any_carrier(tokens, return_type="logits").sum().backward()


def test_what_was_recorded_stays_as_it_was(hooked_model: Any, tokens: torch.Tensor):
    routers = attach_lime(hooked_model, initial="random")
    with routers.recording() as expected:
        hooked_model(tokens)
    with routers.recording() as memory, hooked(hooked_model, {"blocks.0.attn.hook_v": lambda v: v.zero_()}):
        hooked_model(tokens)

    assert torch.equal(memory.values[0], expected.values[0]) and memory.values[0].any()


def test_a_recording_holds_the_last_pass_alone(hooked_model: Any, tokens: torch.Tensor):
    routers = attach_lime(hooked_model)
    with routers.recording() as memory:
        hooked_model(tokens)
        hooked_model(tokens[:2], stop_at_layer=1)

    assert list(memory.keys) == list(memory.routed_values) == [0] and len(memory.keys[0]) == 2


def test_passes_in_several_threads_do_not_mix(hooked_model: Any, tokens: torch.Tensor):
    attach_lime(hooked_model, initial="random")
    expected = [logits(hooked_model, row[None]) for row in tokens]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            rows = list(range(4)) * 8
            found = list(pool.map(lambda i: logits(hooked_model, tokens[i][None]), rows))
    finally:
        sys.setswitchinterval(interval)

    for i, row in zip(rows, found, strict=True):
        torch.testing.assert_close(row, expected[i])


def test_settings_of_new_routers_beside_routers_are_refused(hooked_model: Any):
    with pytest.raises(ValueError, match="was given routers, and also initial = 'random'"):
        attach_lime(hooked_model, LimeRouters(2, 2), initial="random")


def test_weights_that_change_before_the_backward_pass_are_noticed(hooked_model: Any, tokens: torch.Tensor):
    routers = attach_lime(hooked_model, initial="random")
    loss = hooked_model(tokens, return_type="logits").sum()
    routers.set_weights({1: 2 * routers.weights[1].detach()})

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_keys_of_another_precision_are_refused(hooked_model: Any, tokens: torch.Tensor):
    attach_lime(hooked_model)
    hooked_model.blocks[1].attn.double()

    with pytest.raises(RuntimeError, match=r"of layer 1 have shape, precision and device .*float64"):
        hooked_model.blocks[1].attn.hook_k(
            find_hook_point(hooked_model, "blocks.0.attn.hook_k")(torch.zeros(1, 2, 2, 8)).double()
        )


def test_a_model_over_several_devices_is_refused(hooked_model: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hooked_model.cfg, "n_devices", 2)

    with pytest.raises(ValueError, match="spread over 2 devices"):
        attach_lime(hooked_model)

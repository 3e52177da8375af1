"""How long routers stay on a model, who shares them, and what else hooks see and change."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from sae_lens_ext.language_model import find_hook_point, hooked
from sae_lens_ext.lime import attach_lime
from tests.lime.passes import logits


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

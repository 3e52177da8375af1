"""Models, passes and edits that routing does not go with."""

import copy
from typing import Any

import pytest
import torch

from sae_lens_ext.language_model import find_hook_point
from sae_lens_ext.lime import LimeRouters, attach_lime


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


def test_a_pass_that_begins_in_the_middle_reads_nothing_of_one_that_stopped_there(
    hooked_model: Any, tokens: torch.Tensor
):
    attach_lime(hooked_model, initial="random")
    hooked_model.run_with_hooks(tokens, stop_at_layer=1)  # which does not call the model, but its forward

    with pytest.raises(RuntimeError, match="came when those of 0 layers were there"):
        hooked_model(torch.zeros(*tokens.shape, 16), start_at_layer=1)


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

"""Which parameters are moved, and which of them with weight decay."""

from typing import Any

import pytest
import torch
from sae_lens import HookedSAETransformer
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.lime import LimeRouters, attach_lime
from sae_lens_ext.lime.training.parameters import only_trained, trained_parameters, training_mode
from tests.lime.training.test_settings import settings


def test_matrices_alone_have_weight_decay(hooked_model: HookedSAETransformer):
    found = trained_parameters(hooked_model, None, "all")

    kinds = {name.rpartition(".")[2] for name in found.matrices}
    assert kinds == {"W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_U"}
    assert {name.rpartition(".")[2] for name in found.others} >= {"W_E", "W_pos", "b_Q", "b_in", "w", "b"}


def test_embeddings_of_bridges_have_none_not_even_when_tied(
    native_bridge: TransformerBridge, sae_bridge: SAETransformerBridge
):
    native = trained_parameters(native_bridge, None, "all")
    assert len([name for name in native.others if "embed" in name or name.startswith("pos")]) == 2
    assert all(p.ndim == 2 for p in native.matrices.values())

    tied = trained_parameters(sae_bridge, None, "all")  # GPT-2's W_U is its W_E
    assert not [name for name in tied.matrices if "wte" in name or "wpe" in name or "head" in name]


def test_every_parameter_has_one_name(any_carrier: Any):
    named = trained_parameters(any_carrier, None, "all").named

    assert len({id(p) for p in named.values()}) == len(named)
    assert {id(p) for p in named.values()} == {id(p) for p in any_carrier.parameters()}


def test_routers_are_a_group_with_a_rate_of_its_own_and_no_weight_decay(native_bridge: TransformerBridge):
    routers = attach_lime(native_bridge)
    optimizer, rates = trained_parameters(native_bridge, routers, "all").optimizer(
        settings(lr=1.0, router_lr=2.0, weight_decay=0.5)
    )

    assert rates == [1.0, 1.0, 2.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0, 0.0]
    assert optimizer.param_groups[2]["params"] == list(routers.parameters())


def test_what_requires_no_grad_is_not_moved(native_bridge: TransformerBridge):
    frozen = next(native_bridge.parameters()).requires_grad_(False)
    averaging = attach_lime(native_bridge, initial="average")

    found = trained_parameters(native_bridge, averaging, "all")
    assert not found.routers
    assert all(p is not frozen for p in found.named.values())


def test_what_would_do_nothing_is_refused(native_bridge: TransformerBridge, hooked_model: Any):
    with pytest.raises(ValueError, match=r'trained = "routers" and no routers\. Give routers=attach_lime'):
        trained_parameters(native_bridge, None, "routers")
    with pytest.raises(ValueError, match="routers that are not attached to this model"):
        trained_parameters(native_bridge, LimeRouters(2, 2), "all")
    with pytest.raises(ValueError, match="routers that are not attached to this model"):
        trained_parameters(native_bridge, attach_lime(hooked_model), "model")
    with pytest.raises(ValueError, match="routers without a parameter that requires grad"):
        trained_parameters(native_bridge, attach_lime(native_bridge, initial="average"), "routers")
    with pytest.raises(ValueError, match="a model none of whose parameters requires grad"):
        trained_parameters(native_bridge.requires_grad_(False), None, "all")


def test_modes_and_gradients_are_restored_after_an_error(sae_bridge: SAETransformerBridge):
    routers = attach_lime(sae_bridge)
    modules = [*sae_bridge.modules(), *sae_bridge.original_model.modules()]
    modules[3].training = True
    before = [module.training for module in modules]
    first = next(sae_bridge.parameters()).requires_grad_(False)

    for trained in ("routers", "model", "all"):
        with pytest.raises(KeyError), only_trained(sae_bridge, routers, trained):
            assert any(p.requires_grad for p in sae_bridge.parameters()) == (trained != "routers")
            assert all(p.requires_grad == (trained != "model") for p in routers.parameters())
            raise KeyError
        assert [module.training for module in modules] == before
        assert [p.requires_grad for p in sae_bridge.parameters()].count(False) == 1
        assert not first.requires_grad
        assert all(p.requires_grad for p in routers.parameters())


def test_in_training_mode_dropout_is_on(sae_bridge: SAETransformerBridge, tokens: torch.Tensor):
    still = sae_bridge(tokens, return_type="logits")
    with training_mode(sae_bridge):
        assert not torch.equal(sae_bridge(tokens, return_type="logits"), still)
    assert torch.equal(sae_bridge(tokens, return_type="logits"), still)

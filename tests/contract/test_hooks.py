"""Hooks and the error term: interventions take effect, and nothing is left behind."""

import copy

import pytest
import torch
from sae_lens import SAE
from transformer_lens.hook_points import HookPoint

from .cases import CASES, TRAINED, ArchitectureCase
from .synthetic import copy_of_state, same_state, sparse_activations, train

STOCK_HOOKS = {
    "hook_sae_input",
    "hook_sae_acts_pre",
    "hook_sae_acts_post",
    "hook_sae_recons",
    "hook_sae_error",
    "hook_sae_output",
}
every = pytest.mark.parametrize("case", CASES, ids=str)
per_token = pytest.mark.parametrize("case", [c for c in TRAINED if c.per_token], ids=str)


def with_error_term(case: ArchitectureCase) -> SAE:
    sae = case.make_inference()
    sae.use_error_term = True
    return sae


def zero(tensor: torch.Tensor, hook: HookPoint) -> torch.Tensor:
    return torch.zeros_like(tensor)


def run_zeroing(sae: SAE, hook_name: str, x: torch.Tensor) -> torch.Tensor:
    return sae.run_with_hooks(x, fwd_hooks=[(hook_name, zero)])


@every
def test_the_stock_hooks_are_there_by_name(case: ArchitectureCase):
    sae = case.make_inference()
    assert sae.hook_dict.keys() >= STOCK_HOOKS
    assert all(hook.name == name for name, hook in sae.hook_dict.items())
    assert all("." not in name for name in sae.hook_dict), "a nested hook cannot be disabled by SAELens"


@every
def test_no_sae_is_nested_in_another(case: ArchitectureCase):
    """SAELens disables hooks by plain names and renames those of every submodule."""
    saes = [case.make_inference()] + ([] if case.build else [case.make_training()])
    for sae in saes:
        assert not [name for name, module in sae.named_modules() if name and isinstance(module, SAE)]


@every
def test_an_untouched_forward_with_error_term_returns_the_input(case: ArchitectureCase):
    x = sparse_activations(32)
    torch.testing.assert_close(with_error_term(case)(x), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_a_training_sae_with_error_term_returns_the_input(case: ArchitectureCase):
    sae, x = case.make_trained(), sparse_activations(32)
    sae.use_error_term = True
    torch.testing.assert_close(sae(x), x, rtol=1e-5, atol=1e-5)


@every
@pytest.mark.parametrize("use_error_term", [True, False])
def test_each_hook_fires_once(case: ArchitectureCase, use_error_term: bool):
    """Not again in the clean pass that the error term takes."""
    sae = case.make_inference()
    sae.use_error_term = use_error_term
    fired = []
    hooks = [(name, lambda tensor, hook: fired.append(hook.name)) for name in sae.hook_dict]
    sae.run_with_hooks(sparse_activations(4), fwd_hooks=hooks)
    expected = set(sae.hook_dict) - (set() if use_error_term else {"hook_sae_error"})
    assert sorted(fired) == sorted(expected)


@every
def test_zeroing_any_hook_changes_the_output(case: ArchitectureCase):
    sae, x = with_error_term(case), sparse_activations(32)
    for name in sae.hook_dict:
        assert (run_zeroing(sae, name, x) - x).abs().max() > 1e-2, name


@every
def test_an_intervention_moves_the_output_by_what_it_decodes_to(case: ArchitectureCase):
    sae, x = with_error_term(case), sparse_activations(32)
    acts = sae.encode(x)
    without = sae.decode(acts) - sae.decode(torch.zeros_like(acts))
    torch.testing.assert_close(run_zeroing(sae, "hook_sae_acts_post", x), x - without, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        run_zeroing(sae, "hook_sae_recons", x), x - sae.decode(acts), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(run_zeroing(sae, "hook_sae_error", x), sae.decode(acts), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run_zeroing(sae, "hook_sae_output", x), torch.zeros_like(x))


@every
def test_zeroing_the_input_reads_as_a_zero_activation(case: ArchitectureCase):
    sae, x = with_error_term(case), sparse_activations(32)
    nothing = sae.decode(sae.encode(torch.zeros_like(x)))
    expected = x - sae.decode(sae.encode(x)) + nothing
    torch.testing.assert_close(run_zeroing(sae, "hook_sae_input", x), expected, rtol=1e-4, atol=1e-5)


@every
def test_ablating_one_feature_removes_its_decoder_row(case: ArchitectureCase):
    sae, x = with_error_term(case), sparse_activations(32)
    acts = sae.encode(x)
    feature = acts.sum(dim=0).argmax().item()
    only = torch.zeros_like(acts)
    only[:, feature] = acts[:, feature]

    def ablate(tensor: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[:, feature] = 0
        return tensor

    out = sae.run_with_hooks(x, fwd_hooks=[("hook_sae_acts_post", ablate)])
    expected = x - (sae.decode(only) - sae.decode(torch.zeros_like(only)))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@per_token
def test_a_training_sae_s_interventions_take_effect(case: ArchitectureCase):
    sae, x = case.make_trained(), sparse_activations(32)
    sae.use_error_term = True
    for name in sae.hook_dict:
        assert (run_zeroing(sae, name, x) - x).abs().max() > 1e-2, name


@every
def test_the_error_term_leaves_no_modules_and_no_hooks_behind(case: ArchitectureCase):
    sae, x = with_error_term(case), sparse_activations(4)
    before, state, hooks = list(sae.named_modules()), copy_of_state(sae), dict(sae.hook_dict)
    sae(x)
    run_zeroing(sae, "hook_sae_acts_post", x)
    after = list(sae.named_modules())
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all(one is other for (_, one), (_, other) in zip(before, after, strict=True))
    assert sae.hook_dict == hooks
    assert same_state(sae, state)
    torch.testing.assert_close(sae(x), x, rtol=1e-5, atol=1e-5)


@every
def test_the_cache_holds_every_hook(case: ArchitectureCase):
    sae, x = with_error_term(case), sparse_activations(4)
    out, cache = sae.run_with_cache(x)
    assert set(cache) == set(sae.hook_dict)
    assert torch.equal(cache["hook_sae_acts_post"], sae.encode(x))
    assert torch.equal(cache["hook_sae_input"], x)
    torch.testing.assert_close(cache["hook_sae_error"], x - sae.decode(sae.encode(x)))
    assert torch.equal(cache["hook_sae_output"], out)


@every
def test_gradients_flow_back_to_the_input_and_the_features(case: ArchitectureCase):
    sae, x = case.make_inference(), sparse_activations(32).requires_grad_(True)
    kept = {}

    def keep(tensor: torch.Tensor, hook: HookPoint) -> None:
        tensor.retain_grad()
        kept["acts"] = tensor

    sae.run_with_hooks(x, fwd_hooks=[("hook_sae_acts_post", keep)], reset_hooks_end=True).pow(
        2
    ).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()
    assert kept["acts"].grad.any()


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_a_deep_copy_trains_alone(case: ArchitectureCase):
    sae = case.make_trained()
    before, cfg = copy_of_state(sae), copy.deepcopy(sae.cfg)
    twin = copy.deepcopy(sae)
    train(twin, steps=2)
    twin.cfg.metadata.hook_name = "elsewhere"
    assert same_state(sae, before)
    assert sae.cfg == cfg
    assert not same_state(twin, before)


@every
def test_a_deep_copy_is_independent(case: ArchitectureCase):
    sae, x = case.make_inference(), sparse_activations(8)
    expected = sae(x)
    twin = copy.deepcopy(sae)
    assert torch.equal(twin(x), expected)
    fired = []
    twin.hook_dict["hook_sae_acts_post"].add_hook(lambda tensor, hook: fired.append(1))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5).add_(0.01)
    twin.cfg.metadata.hook_name = "elsewhere"
    twin.to(dtype=torch.float64)
    assert torch.equal(sae(x), expected)
    assert not fired
    assert sae.cfg.metadata.hook_name != "elsewhere"
    assert (sae.dtype, sae.cfg.dtype) == (torch.float32, "float32")
    twin(x)
    assert fired == [1]

"""SAEs attached to a model of either kind, and what is left of them once detached."""

import pytest
import torch
from sae_lens import SAE, HookedSAETransformer
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from transformer_lens.hook_points import HookPoint

from .cases import CASES, ArchitectureCase
from .synthetic import sparse_activations

HOOK = "blocks.0.hook_resid_post"
every = pytest.mark.parametrize("case", CASES, ids=str)
Model = HookedSAETransformer | SAETransformerBridge


@pytest.fixture(params=["hooked_model", "sae_bridge"])
def model(request: pytest.FixtureRequest) -> Model:
    return request.getfixturevalue(request.param)


def on_hook(case: ArchitectureCase) -> SAE:
    sae = case.make_inference()
    sae.cfg.metadata.hook_name = HOOK
    return sae


def name_in(model: Model, sae: SAE, hook: str) -> str:
    """The name of an SAE's own hook once it is attached."""
    if isinstance(model, SAETransformerBridge):
        return model.get_sae_hook_name(sae, hook)
    return f"{sae.cfg.metadata.hook_name}.{hook}"


@every
def test_run_with_saes_replaces_the_activation(case: ArchitectureCase, model: Model, tokens: torch.Tensor):
    sae = on_hook(case)
    plain = model(tokens)
    spliced = model.run_with_saes(tokens, saes=[sae])
    assert spliced.shape == plain.shape
    assert spliced.isfinite().all()
    assert not torch.allclose(spliced, plain, atol=1e-4)
    assert torch.equal(model(tokens), plain)


@every
def test_error_term_gives_the_model_s_own_output(case: ArchitectureCase, model: Model, tokens: torch.Tensor):
    out = model.run_with_saes(tokens, saes=[on_hook(case)], use_error_term=True)
    torch.testing.assert_close(out, model(tokens), rtol=1e-4, atol=1e-4)


@every
def test_the_cache_holds_the_features(case: ArchitectureCase, model: Model, tokens: torch.Tensor):
    sae = on_hook(case)
    _, plain = model.run_with_cache(tokens)
    site = name_in(model, sae, "").removesuffix(".")
    _, cache = model.run_with_cache_with_saes(tokens, saes=[sae], use_error_term=True)
    acts = cache[name_in(model, sae, "hook_sae_acts_post")]
    assert acts.shape == (*tokens.shape, sae.cfg.d_sae)
    torch.testing.assert_close(acts, sae.encode(plain[site]), rtol=1e-4, atol=1e-5)


@every
def test_an_ablation_survives_the_error_term(case: ArchitectureCase, model: Model, tokens: torch.Tensor):
    sae = on_hook(case)

    def zero(tensor: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return torch.zeros_like(tensor)

    plain = model(tokens)
    for hook in ("hook_sae_acts_pre", "hook_sae_acts_post", "hook_sae_recons"):
        with model.saes([sae], use_error_term=True):
            out = model.run_with_hooks(tokens, fwd_hooks=[(name_in(model, sae, hook), zero)])
        assert (out - plain).abs().max() > 1e-4, hook


@every
def test_detached_hooks_get_their_own_names_back(case: ArchitectureCase, model: Model, tokens: torch.Tensor):
    sae, x = on_hook(case), sparse_activations(4)
    names = set(sae.hook_dict)
    expected = sae(x)
    model.add_sae(sae, use_error_term=True)
    model(tokens)
    model.reset_saes()
    sae.setup()
    assert set(sae.hook_dict) == names
    assert all(hook.name == name for name, hook in sae.hook_dict.items())
    assert torch.equal(sae(x), expected)
    _, cache = sae.run_with_cache(x)
    assert set(cache) == names - {"hook_sae_error"}
    seen = []
    sae.run_with_hooks(x, fwd_hooks=[("hook_sae_acts_post", lambda acts, hook: seen.append(acts.shape))])
    assert seen == [(4, sae.cfg.d_sae)]


@every
def test_an_sae_attaches_twice_in_a_row(case: ArchitectureCase, model: Model, tokens: torch.Tensor):
    sae = on_hook(case)
    first = model.run_with_saes(tokens, saes=[sae])
    assert torch.equal(model.run_with_saes(tokens, saes=[sae]), first)


@every
def test_an_attached_sae_follows_generation(case: ArchitectureCase, model: Model, tokens: torch.Tensor):
    settings = {"max_new_tokens": 4, "do_sample": False, "verbose": False, "use_past_kv_cache": True}
    plain = model.generate(tokens[:1, :5], **settings)
    with model.saes([on_hook(case)], use_error_term=True):
        kept = model.generate(tokens[:1, :5], **settings)
    assert torch.equal(kept, plain)

"""Functions on activations: the same on every kind of model, gone afterwards, and never silently idle."""

from typing import Any

import pytest
import torch
from sae_lens.load_model import load_model
from transformer_lens.hook_points import HookPoint

from sae_lens_ext.language_model import find_hook_point, hooked

LEGACY, CANONICAL = "blocks.0.hook_resid_post", "blocks.0.hook_out"


def hooks_left(model: Any) -> list[str]:
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]


def own_name(model: Any, *names: str) -> str:
    return next(name for name in names if name in model.hook_dict)


@pytest.mark.parametrize(
    "names",
    [
        (LEGACY, CANONICAL),
        ("blocks.1.hook_resid_pre", "blocks.1.hook_in"),
        ("blocks.1.hook_attn_out", "blocks.1.attn.hook_out"),
        ("blocks.0.hook_mlp_out", "blocks.0.mlp.hook_out"),
    ],
)
def test_find_hook_point_finds_one_point_by_both_names(any_model: Any, names: tuple[str, str]) -> None:
    points = [find_hook_point(any_model, name) for name in names]
    assert isinstance(points[0], HookPoint) and points[0] is points[1]
    assert points[0] is any_model.hook_dict[own_name(any_model, *names)]


def test_find_hook_point_finds_a_hook_of_only_one_name(any_model: Any) -> None:
    name = "blocks.0.ln1.hook_scale"
    assert find_hook_point(any_model, name) is any_model.hook_dict[name]


def test_find_hook_point_knows_a_bridge_s_aliases(sae_bridge) -> None:
    for alias, name in (
        ("blocks.0.attn.hook_z", "blocks.0.attn.o.hook_in"),
        ("blocks.0.mlp.hook_post", "blocks.0.mlp.out.hook_in"),
    ):
        assert find_hook_point(sae_bridge, alias) is sae_bridge.hook_dict[name]


def test_find_hook_point_says_which_names_are_close(hooked_model, sae_bridge) -> None:
    with pytest.raises(
        ValueError, match=r"HookedSAETransformer has no hook 'blocks.0.hook_resid_pst'"
    ) as info:
        find_hook_point(hooked_model, "blocks.0.hook_resid_pst")
    assert "Did you mean 'blocks.0.hook_resid_post' or" in str(info.value)
    assert str(info.value).endswith("All names are in model.hook_dict.")
    with pytest.raises(
        ValueError, match=r"SAETransformerBridge has no hook 'blocks.0.hook_ot'. Did you mean"
    ):
        find_hook_point(sae_bridge, "blocks.0.hook_ot")
    with pytest.raises(ValueError, match=r"no hook 'Ünknown'. All names are in model.hook_dict"):
        find_hook_point(hooked_model, "Ünknown")


def test_find_hook_point_does_not_take_another_layer_s_hook(any_model: Any) -> None:
    with pytest.raises(ValueError, match="has no hook 'blocks.2.hook_resid_post'"):
        find_hook_point(any_model, "blocks.2.hook_resid_post")


@pytest.mark.parametrize("name", [LEGACY, CANONICAL])
def test_hooked_puts_what_a_function_returns_in_place(any_model: Any, tokens, name: str) -> None:
    plain = any_model(tokens)
    expected = any_model.run_with_hooks(
        tokens, fwd_hooks=[(own_name(any_model, LEGACY, CANONICAL), lambda x, hook: 2 * x + 1)]
    )
    with hooked(any_model, {name: lambda x: 2 * x + 1}):
        changed = any_model(tokens)
    assert torch.equal(changed, expected) and not torch.allclose(changed, plain)
    assert torch.equal(any_model(tokens), plain)


def test_hooked_leaves_activations_when_a_function_returns_none(any_model: Any, tokens) -> None:
    plain, shapes = any_model(tokens), []
    with hooked(any_model, {LEGACY: lambda x: shapes.append(tuple(x.shape))}):
        assert torch.equal(any_model(tokens), plain)
        any_model(tokens[:1])
    assert shapes == [(4, 16, 16), (1, 16, 16)]


def test_hooked_runs_each_function_at_its_own_hook(any_model: Any, tokens) -> None:
    seen = {}
    names = ["blocks.0.hook_out", "blocks.1.hook_out", "blocks.1.attn.hook_out"]
    with hooked(any_model, {name: lambda x, name=name: seen.update({name: x.clone()}) for name in names}):
        any_model(tokens)
    for name in names:
        direct = []
        with hooked(any_model, {name: lambda x, direct=direct: direct.append(x.clone())}):
            any_model(tokens)
        assert torch.equal(seen[name], direct[0])
    assert not torch.equal(seen[names[0]], seen[names[1]])


def test_hooked_takes_both_names_of_a_site_one_after_the_other(any_model: Any, tokens) -> None:
    seen = []
    functions = {LEGACY: lambda x: torch.full_like(x, 3), CANONICAL: lambda x: seen.append(x.unique().item())}
    with hooked(any_model, functions):
        any_model(tokens)
    assert seen == [3]


def test_hooked_leaves_no_hooks(any_model: Any, tokens) -> None:
    with hooked(any_model, {LEGACY: lambda x: None}):
        any_model(tokens)
        assert len(find_hook_point(any_model, LEGACY).fwd_hooks) == 1
    assert hooks_left(any_model) == []


def test_hooked_leaves_no_hooks_after_an_exception_which_passes_through(any_model: Any, tokens) -> None:
    def fail(activations: torch.Tensor) -> None:
        raise ZeroDivisionError("the user's own")

    with (
        pytest.raises(ZeroDivisionError, match="the user's own"),
        hooked(any_model, {LEGACY: fail, "blocks.1.hook_out": lambda x: None}),
    ):
        any_model(tokens)
    assert hooks_left(any_model) == []


def test_hooked_leaves_the_hooks_of_others_on_the_same_point(any_model: Any, tokens) -> None:
    runs: list[str] = []
    point = find_hook_point(any_model, LEGACY)
    point.add_hook(lambda x, hook: runs.append("foreign"))
    point.add_perma_hook(lambda x, hook: runs.append("permanent"))
    with hooked(any_model, {LEGACY: lambda x: runs.append("outer")}):
        with hooked(any_model, {CANONICAL: lambda x: runs.append("inner")}):
            any_model(tokens)
        any_model(tokens)
    any_model(tokens)
    both = ["foreign", "permanent"]
    assert runs == [*both, "outer", "inner", *both, "outer", *both]


def test_hooked_inside_the_model_s_own_hooks_leaves_them(any_model: Any, tokens) -> None:
    runs: list[str] = []
    name = own_name(any_model, LEGACY, CANONICAL)
    with any_model.hooks(fwd_hooks=[(name, lambda x, hook: runs.append("theirs"))]):
        with hooked(any_model, {name: lambda x: runs.append("ours")}):
            any_model(tokens)
        any_model(tokens)
    assert runs == ["theirs", "ours", "theirs"]
    assert hooks_left(any_model) == []


def test_hooked_raises_when_a_hook_never_fired(any_model: Any, tokens) -> None:
    with (
        pytest.raises(RuntimeError, match=r"The hooks 'blocks.0.hook_mlp_in' never fired.*past these hooks"),
        hooked(any_model, {LEGACY: lambda x: None, "blocks.0.hook_mlp_in": lambda x: None}),
    ):
        any_model(tokens)
    assert hooks_left(any_model) == []
    with (
        pytest.raises(RuntimeError, match=f"The hooks '{LEGACY}', 'blocks.1.hook_out' never fired"),
        hooked(any_model, {LEGACY: lambda x: None, "blocks.1.hook_out": lambda x: None}),
    ):
        pass  # the model is not run at all


def test_hooked_runs_nothing_when_one_name_is_unknown(any_model: Any) -> None:
    entered = False
    with (
        pytest.raises(ValueError, match="no hook 'blocks.0.nothing'"),
        hooked(any_model, {LEGACY: lambda x: None, "blocks.0.nothing": lambda x: None}),
    ):
        entered = True
    assert not entered and hooks_left(any_model) == []


def test_hooked_acts_on_a_plain_hugging_face_model(gpt2_folder, sae_bridge, tokens) -> None:
    proxy = load_model("AutoModelForCausalLM", str(gpt2_folder)).eval()
    with torch.no_grad(), hooked(proxy, {"transformer.h.0": lambda x: 0 * x}):
        ablated = proxy(tokens)
    with torch.no_grad(), hooked(sae_bridge, {LEGACY: lambda x: 0 * x}):
        torch.testing.assert_close(ablated, sae_bridge(tokens))
    with pytest.raises(
        ValueError, match="HookedProxyLM has no hook 'transformer.h.9'. Did you mean 'transformer.h"
    ):
        find_hook_point(proxy, "transformer.h.9")


def test_find_hook_point_tries_each_of_several_aliases(
    sae_bridge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_hook_point(sae_bridge, "hook_embed") is sae_bridge.hook_dict["embed.hook_out"]
    monkeypatch.setattr(
        sae_bridge, "hook_aliases", {"hook_words": ["embed_ln.hook_out", "embed.hook_out", CANONICAL]}
    )
    assert find_hook_point(sae_bridge, "hook_words") is sae_bridge.hook_dict["embed.hook_out"]
    monkeypatch.setattr(sae_bridge, "hook_aliases", {"hook_words": ["embed_ln.hook_out"]})
    with pytest.raises(ValueError, match="has no hook 'hook_words'"):
        find_hook_point(sae_bridge, "hook_words")


def test_find_hook_point_refuses_a_model_without_hooks() -> None:
    for model in (None, torch.nn.Linear(2, 2)):
        with pytest.raises(
            ValueError,
            match=rf"{type(model).__name__} is no model with hook points. Give a HookedTransformer, or a .*boot_transformers",
        ):
            find_hook_point(model, LEGACY)

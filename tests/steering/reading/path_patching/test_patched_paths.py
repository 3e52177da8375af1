from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel

from sae_lens_ext.steering import AddVector, steer
from sae_lens_ext.steering.reading.path_patching import PathMode, patched_paths
from sae_lens_ext.steering.reading.path_patching.modes import head_modes
from sae_lens_ext.steering.reading.path_patching.patched_block import Reads
from sae_lens_ext.steering.reading.path_patching.paths import reading
from sae_lens_ext.steering.reading.path_patching.projections import Projections
from sae_lens_ext.steering.training.measure import measure_reward
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.reading.path_patching.by_hand import logits_by_hand, weights_of, weights_of_gpt2

WHOLE = ("full", "skip_attn", "skip_mlp", "skip_layer", "base")
EVERY = [*WHOLE, *(mode.name for mode in head_modes({"q": 2, "k": 2, "v": 2}))]


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens, return_type="logits")


def patched(
    model: Any, tokens: torch.Tensor, vector: Any, mode: Any, layer: int | None = None
) -> torch.Tensor:
    with patched_paths(model, vector, mode, layer=layer):
        return logits_of(model, tokens)


def before_last_block(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    with steer(model, AddVector("blocks.0.hook_resid_post", torch.zeros(16))):
        handle = model.blocks[-1].register_forward_pre_hook(
            lambda _, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        logits_of(model, tokens)
    handle.remove()
    return kept[0]


def test_every_mode_is_the_block_written_out_by_hand(
    any_model: Any, gpt2_folder: Path, tokens: torch.Tensor, vector: torch.Tensor, request: Any
):
    if "sae_bridge" in request.node.callspec.id:
        weights = weights_of_gpt2(GPT2LMHeadModel.from_pretrained(gpt2_folder))
    else:
        weights = weights_of(any_model)
    before = before_last_block(any_model, tokens)
    for mode in EVERY:
        with torch.no_grad():
            expected = logits_by_hand(before, vector, mode, weights)
        found = patched(any_model, tokens, vector, mode).double()
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=1e-5, msg=lambda text, mode=mode: f"{mode}: {text}"
        )


def with_split_inputs(
    model: HookedTransformer, tokens: torch.Tensor, s: torch.Tensor, layer: int, mode: PathMode
) -> torch.Tensor:
    """TransformerLens' own way: split inputs of q, k and v switched on in the whole model, and s taken away again at them."""
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    at = f"blocks.{layer + 1}"

    def minus(part: str) -> Callable[..., torch.Tensor]:
        def run(x: torch.Tensor, hook: Any) -> torch.Tensor:
            for head in range(x.shape[2]):
                named = (part, head) == (mode.part, mode.head)
                if mode.attention_reads == named:
                    x[:, :, head] -= s
            return x

        return run

    hooks: list[Any] = [(f"blocks.{layer}.hook_resid_post", lambda x, hook: x + s)]
    hooks += [(f"{at}.hook_{part}_input", minus(part)) for part in "qkv"]
    if not mode.mlp_reads:
        hooks.append((f"{at}.hook_mlp_in", lambda x, hook: x - s))
    try:
        with torch.no_grad():
            return model.run_with_hooks(tokens, return_type="logits", fwd_hooks=hooks)
    finally:
        model.set_use_split_qkv_input(False)
        model.set_use_hook_mlp_in(False)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_llama_of_either_kind_does_what_split_inputs_do(
    llama: Any, llama_hooked: Any, tokens: torch.Tensor, vector: torch.Tensor, layer: int
):
    heads = Projections(llama, layer + 1).heads
    assert heads == {"q": 4, "k": 2, "v": 2}
    for mode in (*map(PathMode.parse, WHOLE[:-1]), *head_modes(heads)):
        expected = with_split_inputs(llama_hooked, tokens, vector, layer, mode)
        found = patched(llama, tokens, vector, mode, layer)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_modes_of_every_head_differ(llama: Any, tokens: torch.Tensor, vector: torch.Tensor):
    found = [
        patched(llama, tokens, vector, mode) for mode in (*WHOLE, *head_modes(Projections(llama, 2).heads))
    ]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert (one - other).abs().max() > 1e-4


def test_identities_hold_in_every_model_and_layer(
    every_model: Any, tokens: torch.Tensor, vector: torch.Tensor
):
    for layer in range(every_model.cfg.n_layers - 1):
        for mode, after in (("full", layer), ("skip_layer", layer + 1)):
            with steer(every_model, AddVector(f"blocks.{after}.hook_resid_post", vector)):
                expected = logits_of(every_model, tokens)
            torch.testing.assert_close(
                patched(every_model, tokens, vector, mode, layer), expected, rtol=1e-5, atol=1e-5
            )
        assert torch.equal(
            patched(every_model, tokens, vector, "base", layer), logits_of(every_model, tokens)
        )
        heads = {part: range(n) for part, n in Projections(every_model, layer + 1).heads.items()}
        for attention, mode in ((True, "skip_attn"), (False, "full")):
            with reading(every_model, layer, vector, Reads(attention, True, heads)):
                found = logits_of(every_model, tokens)
            expected = patched(every_model, tokens, vector, mode, layer)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), strength=st.sampled_from([0.0, 1e-3, 1.0, 300.0]))
def test_whatever_the_vector_vanilla_readers_read_the_same_bits(
    hooked_model: Any, tokens: torch.Tensor, seed: int, strength: float
):
    vector = torch.randn(16, generator=torch.Generator().manual_seed(seed)) * strength + 1e-6
    names = (
        "blocks.1.attn.hook_q",
        "blocks.1.attn.hook_v",
        "blocks.1.hook_attn_out",
        "blocks.1.hook_mlp_out",
    )
    _, plain = hooked_model.run_with_cache(tokens, names_filter=lambda name: name in names)
    with patched_paths(hooked_model, vector, "skip_layer"):
        _, cache = hooked_model.run_with_cache(tokens, names_filter=lambda name: name in names)
    assert all(torch.equal(cache[name], plain[name]) for name in names)


def test_vanilla_heads_read_the_same_bits_where_tokens_are_huge(
    llama: Any, tokens: torch.Tensor, vector: torch.Tensor
):
    """A residual stream of 20,000, as sink tokens have, where x + s − s would be wrong in the fourth digit of s."""
    huge = AddVector("blocks.0.hook_resid_post", 20_000 * torch.ones(16), positions=0)
    seen: list[torch.Tensor] = []
    handle = llama.blocks[2].mlp.register_forward_hook(lambda _, __, output: seen.append(output))
    with steer(llama, huge):
        logits_of(llama, tokens)
        patched(llama, tokens, vector, "skip_layer")
    handle.remove()
    assert torch.equal(seen[0], seen[1])


def test_generating_with_a_cache_is_generating_without(
    every_model: Any, tokens: torch.Tensor, vector: torch.Tensor
):
    prompt = tokens[:2, :6]
    for mode in ("full", "skip_attn", "skip_mlp", "skip_layer", "vanilla:k:1", "only:v:0"):
        whole = prompt
        with patched_paths(every_model, vector, mode):
            for _ in range(5):
                whole = torch.cat(
                    [whole, logits_of(every_model, whole)[:, -1].argmax(-1, keepdim=True)], dim=1
                )
            cached = every_model.generate(
                prompt,
                max_new_tokens=5,
                temperature=0,
                stop_at_eos=False,
                verbose=False,
                return_type="tokens",
            )
        assert cached.tolist() == whole.tolist(), mode


@pytest.mark.parametrize("mode", ["skip_attn", "vanilla:v:1"])
def test_sampling_left_padded_with_a_cache_is_reading_each_text_alone(
    every_model: Any, vector: torch.Tensor, mode: str
):
    prompts = ["w1 w2 w3 w4", "w5", "w7 w8"]
    with patched_paths(every_model, vector, mode):
        found = measure_reward(
            every_model, prompts, lambda _, text: float(len(text)), samples_per_prompt=2, max_new_tokens=4
        )
        for i, before in enumerate(found.prompt_tokens):
            for j, written in enumerate(found.tokens[i]):
                whole = torch.tensor([[*before, *written]])
                log_probs = logits_of(every_model, whole)[0].log_softmax(-1)
                alone = [float(log_probs[len(before) + t - 1, token]) for t, token in enumerate(written)]
                assert sum(alone) / len(alone) == pytest.approx(found.log_probs[i, j], abs=1e-4)


def test_the_paths_end_with_the_block_also_after_an_error(
    every_model: Any, tokens: torch.Tensor, vector: torch.Tensor
):
    before = logits_of(every_model, tokens)
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in every_model.modules()
    )
    with pytest.raises(KeyError), patched_paths(every_model, vector, "vanilla:q:0"):
        logits_of(every_model, tokens)
        raise KeyError
    assert torch.equal(logits_of(every_model, tokens), before)
    assert hooks == sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in every_model.modules()
    )


def test_nothing_given_is_changed_and_vectors_come_in_every_form(
    hooked_model: Any, tokens: torch.Tensor, vector: torch.Tensor
):
    kept = vector.clone()
    expected = patched(hooked_model, tokens, vector, "skip_attn")
    for form in (
        SteeringVectors({0: vector}),
        AddVector("blocks.0.hook_resid_post", vector / 2, strength=2.0),
        AddVector("blocks.1.hook_resid_pre", vector),
        {"mine": vector},
    ):
        torch.testing.assert_close(patched(hooked_model, tokens, form, PathMode.skip_attn()), expected)
    assert torch.equal(vector, kept)


def test_vanilla_is_without_this_vector_alone(llama: Any, tokens: torch.Tensor, vector: torch.Tensor):
    """Another one, added before, stays."""
    other = AddVector("blocks.0.hook_resid_post", vector.flip(0))
    with steer(llama, other):
        found = patched(llama, tokens, vector, "skip_layer")
    with steer(llama, other, AddVector("blocks.2.hook_resid_post", vector)):
        expected = logits_of(llama, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["full", "skip_attn"])
def test_hooks_that_somebody_removes_inside_the_block_are_an_error(any_model: Any, mode: str) -> None:
    tokens = torch.tensor([[0, 3, 4, 5]])
    with patched_paths(any_model, torch.ones(16), mode):
        any_model(tokens)
        any_model.reset_hooks()
        with pytest.raises(RuntimeError, match="removed the hooks of patched_paths"):
            any_model(tokens)
    any_model(tokens)

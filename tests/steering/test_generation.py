"""Steering while the model generates: with a key-value cache as without, and as a loop over tokens says."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.language_model import Site, read_activations
from sae_lens_ext.steering import AblateFeature, AddFeature, AddVector, ClampFeature, ScaleFeature, steer
from tests.steering.naive import (
    D_MODEL,
    EARLY,
    NEW,
    generate,
    is_selected,
    often_active,
    sae_at,
    state_of,
    steered_generation,
)

PROMPT = 6
VECTOR = torch.linspace(-2, 2, D_MODEL)
POSITIONS = {
    "all": None,
    "first": 0,
    "third": 2,
    "last of the prompt": -1,
    "second generated": PROMPT + 1,
    "from the end of the prompt": slice(-2, None),
    "every second": slice(1, None, 2),
    "some": [0, -2, PROMPT],
    "mask": torch.tensor(
        [[True, False, True, False, False, True], [False, False, False, False, True, False]]
    ),
}
PHASES = (("prompt", "generation"), ("prompt",), ("generation",))


@pytest.fixture
def prompts(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:2, :PROMPT]


@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
def test_every_position_is_steered_as_by_a_loop_over_tokens(
    any_model: Any, prompts: torch.Tensor, positions: Any
) -> None:
    reached = 0
    for phases in PHASES:
        selection = {"positions": positions, "phases": phases}
        steering = AddVector(EARLY, VECTOR, **selection)
        expected_tokens, expected = steered_generation(any_model, prompts, lambda x: VECTOR, **selection)
        acts = any(
            is_selected(positions, phases, row, column, PROMPT, None)
            for row in range(2)
            for column in range(PROMPT + NEW - 1)
        )
        reached += acts
        for use_cache in (True, False):
            idle = nullcontext() if acts else pytest.raises(RuntimeError, match="acted on no token")
            with idle, steer(any_model, steering):
                tokens, logits = generate(any_model, prompts, use_past_kv_cache=use_cache)
            assert torch.equal(tokens, expected_tokens)
            torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
    assert reached >= 2


def test_every_kind_is_steered_as_by_a_loop_over_tokens(any_model: Any, prompts: torch.Tensor) -> None:
    sae = sae_at(EARLY)
    index = often_active(sae, read_activations(any_model, prompts, Site(EARLY)))
    row, other = sae.W_dec[index].detach(), sae.W_dec[3].detach()

    def live(x: torch.Tensor) -> torch.Tensor:
        return sae.encode(x[None])[0, index].detach()

    kinds = [
        (AddVector(EARLY, VECTOR, 0.5), lambda x: 0.5 * VECTOR),
        (AddVector(EARLY, VECTOR, 0.5, relative=True), lambda x: 0.5 * x.norm() * VECTOR / VECTOR.norm()),
        (AddFeature(sae, 3, 3.0), lambda x: 3.0 * other / other.norm()),
        (ScaleFeature(sae, index, -4.0), lambda x: -5.0 * live(x) * row),
        (ClampFeature(sae, index, 7.0), lambda x: (7.0 - live(x)) * row),
        (AblateFeature(sae, index), lambda x: -live(x) * row),
        (
            AddFeature(sae, 3, 2.0) + 2 * ScaleFeature(sae, index, 3.0) + AddVector(EARLY, VECTOR),
            lambda x: 2.0 * other / other.norm() + 4.0 * live(x) * row + VECTOR,
        ),
    ]
    _, plain = generate(any_model, prompts)
    for steering, change in kinds:
        expected_tokens, expected = steered_generation(any_model, prompts, change)
        for use_cache in (True, False):
            with steer(any_model, steering):
                tokens, logits = generate(any_model, prompts, use_past_kv_cache=use_cache)
            assert torch.equal(tokens, expected_tokens), steering
            torch.testing.assert_close(logits, expected, atol=5e-4, rtol=1e-3)
        assert not torch.equal(logits, plain), steering


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_steered_like_rows_alone(any_model: Any, prompts: torch.Tensor, side: str) -> None:
    """Row 0 is shorter by its first or last two tokens, which are padding."""
    native = type(any_model) is TransformerBridge
    real = torch.ones(2, PROMPT, dtype=torch.long)
    real[0, slice(0, 2) if side == "left" else slice(4, 6)] = 0
    alone = prompts[:1, 2:] if side == "left" else prompts[:1, :4]
    told = {} if native else {"attention_mask": real}
    for positions in (None, 0, -1, slice(1, 3), [0, -2], slice(-3, None)):
        steering = AddVector("blocks.1.hook_resid_post", VECTOR, positions=positions)
        with torch.no_grad():
            with steer(any_model, steering, attention_mask=real):
                together = any_model(prompts, **told)
            unsteered = any_model(prompts, **told)
            with steer(any_model, steering):
                separate, whole = any_model(alone), any_model(prompts[1:])
        torch.testing.assert_close(together[1], whole[0], atol=2e-4, rtol=1e-4)
        assert torch.equal(together[0][real[0] == 0], unsteered[0][real[0] == 0])
        if not (native and side == "left"):  # TransformerLens' native model shifts no positions for padding
            torch.testing.assert_close(together[0][real[0] == 1], separate[0], atol=2e-4, rtol=1e-4)
    unreached = pytest.raises(RuntimeError, match="acted on no token")
    with unreached, steer(any_model, AddVector(EARLY, VECTOR, positions=PROMPT), attention_mask=real):
        any_model(prompts, **told)


def test_left_padded_texts_are_steered_like_texts_alone_while_generating(
    request: pytest.FixtureRequest,
) -> None:
    for kind in ("hooked_model", "sae_bridge"):
        model = request.getfixturevalue(kind)
        texts = ["w3 w9 w4 w1", "w2 w7"]
        steering = AddVector(EARLY, VECTOR, positions=[1, -1, 6])
        with steer(model, steering):
            together, logits = generate(model, texts)
        for row, text in enumerate(texts):
            with steer(model, AddVector(EARLY, VECTOR, positions=[1, -1, 6])):
                alone, expected = generate(model, text)
            torch.testing.assert_close(logits[row], expected[0], atol=5e-4, rtol=1e-3)
            assert torch.equal(together[row, -NEW:], alone[0, -NEW:])


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_a_stream_is_steered_like_generate(any_model: Any, prompts: torch.Tensor, use_cache: bool) -> None:
    steering = AddVector(EARLY, VECTOR, positions=[1, PROMPT], phases=("prompt", "generation"))
    settings = {
        "max_new_tokens": NEW,
        "do_sample": False,
        "stop_at_eos": False,
        "use_past_kv_cache": use_cache,
    }
    before = state_of(any_model)
    with steer(any_model, steering):
        whole = any_model.generate(prompts, verbose=False, **settings)
        pieces = list(any_model.generate_stream(prompts, verbose=False, max_tokens_per_yield=1, **settings))
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    assert torch.equal(
        whole, steered_generation(any_model, prompts, lambda x: VECTOR, positions=[1, PROMPT])[0]
    )
    assert state_of(any_model) == before


def test_a_forward_pass_between_two_pieces_of_a_stream_is_a_prompt_of_its_own(
    any_model: Any, prompts: torch.Tensor
) -> None:
    steering = AddVector(EARLY, VECTOR, positions=-1)
    settings = {"max_new_tokens": NEW, "do_sample": False, "stop_at_eos": False, "verbose": False}
    with steer(any_model, steering):
        expected, alone = any_model.generate(prompts, **settings), any_model(prompts[:, :3])
        pieces = []
        for piece in any_model.generate_stream(prompts, max_tokens_per_yield=1, **settings):
            pieces.append(piece)
            with torch.no_grad():
                assert torch.equal(any_model(prompts[:, :3]), alone)
    assert torch.equal(torch.cat(pieces, dim=1), expected)


def test_a_stream_that_outlives_its_block_raises(any_model: Any, prompts: torch.Tensor) -> None:
    with steer(any_model, AddVector(EARLY, VECTOR)):
        stream = any_model.generate_stream(prompts, max_tokens_per_yield=1, stop_at_eos=False, verbose=False)
        next(stream)
    with pytest.raises(RuntimeError, match="ended before all of generate_stream"):
        next(stream)


@pytest.mark.parametrize("positions", [None, 0, -1, PROMPT, slice(-1, None)], ids=str)
@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_hugging_faces_generate_is_steered_too(
    sae_bridge: Any, prompts: torch.Tensor, positions: Any, use_cache: bool
) -> None:
    with steer(sae_bridge, AddVector(EARLY, VECTOR, positions=positions)):
        tokens = sae_bridge.hf_generate(
            prompts, max_new_tokens=NEW, do_sample=False, stop_at_eos=False, use_past_kv_cache=use_cache,
            temperature=None, eos_token_id=31, attention_mask=torch.ones_like(prompts), use_cache=use_cache,
        )  # fmt: skip
    expected, _ = steered_generation(sae_bridge, prompts, lambda x: VECTOR, positions=positions)
    assert torch.equal(tokens, expected)


def test_beams_of_a_prompt_are_steered_alike(sae_bridge: Any, prompts: torch.Tensor) -> None:
    settings = {
        "max_new_tokens": NEW,
        "do_sample": False,
        "temperature": None,
        "num_beams": 3,
        "eos_token_id": 31,
    }
    steering = AddVector(EARLY, VECTOR, positions=[-1, PROMPT])
    found = []
    for use_cache in (True, False):
        with steer(sae_bridge, steering):
            found.append(
                sae_bridge.hf_generate(
                    prompts,
                    use_past_kv_cache=False,
                    use_cache=use_cache,
                    attention_mask=torch.ones_like(prompts),
                    **settings,
                )
            )
    assert torch.equal(*found)
    with (
        pytest.raises(ValueError, match="2 rows, but the model runs 6 sequences"),
        steer(sae_bridge, steering, attention_mask=torch.ones(2, PROMPT)),
    ):
        sae_bridge.hf_generate(prompts, attention_mask=torch.ones_like(prompts), **settings)


@pytest.mark.parametrize(
    "options", [{"prefill_chunk_size": 2}, {"guidance_scale": 2.0}, {"prompt_lookup_num_tokens": 2}], ids=str
)
def test_generation_that_is_not_token_by_token_is_refused(sae_bridge: Any, options: Any) -> None:
    before = state_of(sae_bridge)
    prompt = torch.tensor([[5, 6, 7, 5, 6, 7]])
    with (
        pytest.raises(NotImplementedError, match="not token by token"),
        steer(sae_bridge, AddVector(EARLY, VECTOR)),
    ):
        sae_bridge.hf_generate(
            prompt, max_new_tokens=NEW, do_sample=False, temperature=None, attention_mask=torch.ones_like(prompt),
            eos_token_id=31, **options,
        )  # fmt: skip
    assert state_of(sae_bridge) == before


def test_a_hook_that_generate_does_not_fire_is_an_error(hooked_model: Any, prompts: torch.Tensor) -> None:
    with (
        pytest.raises(
            RuntimeError, match="'hook_embed' does not fire while this HookedSAETransformer generates"
        ),
        steer(hooked_model, AddVector("hook_embed", VECTOR)),
    ):
        hooked_model(prompts)
        generate(hooked_model, prompts)
    outside = pytest.raises(RuntimeError, match="'hook_pos_embed' fired outside a forward pass")
    with outside, steer(hooked_model, AddVector("hook_pos_embed", VECTOR)):
        generate(hooked_model, prompts)


@pytest.mark.parametrize("positions", [0, -1, PROMPT, slice(-1, None), None], ids=str)
def test_a_loop_of_ones_own_on_a_cache_is_steered_as_without(
    hooked_model: Any, prompts: torch.Tensor, positions: Any
) -> None:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    hooked_model.unembed.b_U.data[
        0
    ] = -100  # a pass on a cache takes token 0 for padding, one without does not
    expected, _ = steered_generation(hooked_model, prompts, lambda x: VECTOR, positions=positions)
    for cached in (True, False):
        cache = TransformerLensKeyValueCache.init_cache(hooked_model.cfg, "cpu", 2) if cached else None
        tokens = new = prompts
        with (
            torch.no_grad(),
            steer(
                hooked_model,
                AddVector(EARLY, VECTOR, positions=positions),
                attention_mask=torch.ones_like(prompts),
            ),
        ):
            for _ in range(NEW):
                logits = hooked_model(new, past_kv_cache=cache)
                choice = logits[:, -1].argmax(dim=-1, keepdim=True)
                tokens = torch.cat([tokens, choice], dim=1)
                new = choice if cached else tokens
        assert torch.equal(tokens, expected)


def test_a_loop_of_ones_own_on_a_bridges_cache_is_steered_as_without(
    sae_bridge: Any, prompts: torch.Tensor
) -> None:
    from transformers import DynamicCache

    expected, _ = steered_generation(sae_bridge, prompts, lambda x: VECTOR, positions=[2, PROMPT])
    cache, tokens, new = DynamicCache(), prompts, prompts
    with torch.no_grad(), steer(sae_bridge, AddVector(EARLY, VECTOR, positions=[2, PROMPT])):
        for _ in range(NEW):
            logits = sae_bridge(new, past_key_values=cache, use_cache=True)
            new = logits[:, -1].argmax(dim=-1, keepdim=True)
            tokens = torch.cat([tokens, new], dim=1)
    assert torch.equal(tokens, expected)


def test_negative_positions_on_a_cache_need_to_know_the_prompt(
    sae_bridge: Any, prompts: torch.Tensor
) -> None:
    from transformers import DynamicCache

    cache = DynamicCache()
    with (
        pytest.raises(ValueError, match="not known where the prompt ends"),
        steer(sae_bridge, AddVector(EARLY, VECTOR, positions=-1)),
    ):
        sae_bridge(prompts, past_key_values=cache, use_cache=True)
        sae_bridge(prompts[:, :1], past_key_values=cache, use_cache=True)


def test_generation_phase_is_never_reached_in_plain_passes(any_model: Any, prompts: torch.Tensor) -> None:
    unreached = pytest.raises(RuntimeError, match="plain forward passes are all prompt")
    with unreached, steer(any_model, AddVector(EARLY, VECTOR, phases=("generation",))):
        any_model(prompts)

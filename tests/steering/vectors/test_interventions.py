"""That steering is what a bias on down_proj is, on every kind of model."""

from typing import Any

import pytest
import torch

from sae_lens_ext.steering import AddVector, InterventionSum, steer
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.vectors.conftest import N_LAYERS, random_vectors

ALL_LAYERS = tuple(range(N_LAYERS))
NEW = 6


@pytest.fixture
def prompts() -> torch.Tensor:
    tokens = torch.randint(2, 32, (3, 7), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = 0
    return tokens


def set_biases(model: Any, vectors: SteeringVectors) -> None:
    with torch.no_grad():
        for layer in vectors:
            model.blocks[layer].mlp.b_out.copy_(vectors[layer])


def generated(model: Any, prompts: torch.Tensor, **how: Any) -> torch.Tensor:
    settings = {"do_sample": False, "stop_at_eos": False, "verbose": False, "max_new_tokens": NEW}
    return model.generate(prompts, **settings, **how)


@pytest.mark.parametrize("layers", [ALL_LAYERS, (N_LAYERS - 1,), (0, 2)])
def test_steering_gives_the_logits_of_a_model_with_these_biases(
    any_llama: Any, prompts: torch.Tensor, layers: tuple[int, ...]
) -> None:
    vectors = SteeringVectors(random_vectors(*layers))
    plain = any_llama(prompts)
    with steer(any_llama, vectors.interventions(any_llama)):
        steered = any_llama(prompts)
    set_biases(any_llama, vectors)
    torch.testing.assert_close(steered, any_llama(prompts), rtol=1e-5, atol=2e-5)
    assert (steered - plain).abs().max() > 0.1


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
def test_steering_generates_what_a_model_with_these_biases_generates(
    any_llama: Any, prompts: torch.Tensor, use_past_kv_cache: bool
) -> None:
    vectors = SteeringVectors(random_vectors(*ALL_LAYERS))
    plain = generated(any_llama, prompts, use_past_kv_cache=True)
    with steer(any_llama, vectors.interventions(any_llama)):
        steered = generated(any_llama, prompts, use_past_kv_cache=use_past_kv_cache)
    set_biases(any_llama, vectors)
    assert torch.equal(steered, generated(any_llama, prompts, use_past_kv_cache=True))
    assert not torch.equal(steered, plain)


def test_a_hugging_face_model_takes_the_biases_and_agrees(
    any_llama: Any, llama: Any, prompts: torch.Tensor
) -> None:
    vectors = SteeringVectors(random_vectors(0, 2))
    loaded = llama.load_state_dict(vectors.to_bias_state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    with steer(any_llama, vectors.interventions(any_llama)):
        torch.testing.assert_close(any_llama(prompts), llama(prompts).logits, rtol=1e-4, atol=5e-5)
        assert torch.equal(
            generated(any_llama, prompts),
            llama.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                suppress_tokens=None,
                pad_token_id=0,
                eos_token_id=None,
            ),
        )


def test_it_adds_exactly_the_vector_at_every_position(any_model: Any, tokens: torch.Tensor) -> None:
    vectors = SteeringVectors(random_vectors(0))
    hook = "blocks.0.hook_out" if "Bridge" in type(any_model).__name__ else "blocks.0.hook_resid_post"
    before = any_model.run_with_cache(tokens)[1][hook]
    with steer(any_model, vectors.interventions(any_model)):
        after = any_model.run_with_cache(tokens)[1][hook]
    torch.testing.assert_close(after - before, vectors[0].expand_as(before), rtol=1e-5, atol=1e-5)


def test_strength_positions_and_phases_are_passed_on(any_model: Any) -> None:
    vectors = SteeringVectors(random_vectors(0, 1))
    parts = vectors.interventions(
        any_model, strength=-2, positions=slice(1, None), phases=("generation",)
    ).parts
    assert [part.site.hook_name for part in parts] == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    for part, layer in zip(parts, vectors, strict=True):
        assert isinstance(part, AddVector)
        assert (part.strength, part.positions, part.phases) == (-2.0, slice(1, None), ("generation",))
        assert torch.equal(part.vector, vectors[layer])


def test_interventions_do_not_share_memory_with_the_vectors() -> None:
    vectors = SteeringVectors({0: torch.ones(2)})
    for part in vectors.interventions():
        assert isinstance(part, AddVector)
        part.vector.zero_()
    assert vectors[0].tolist() == [1.0, 1.0]


def test_the_sum_can_be_given_whole_or_unpacked(hooked_model: Any, tokens: torch.Tensor) -> None:
    total = SteeringVectors(random_vectors(0, 1)).interventions(hooked_model)
    with steer(hooked_model, total):
        whole = hooked_model(tokens)
    with steer(hooked_model, *total):
        unpacked = hooked_model(tokens)
    assert torch.equal(whole, unpacked)


def test_an_intervention_sum_has_a_length_and_gives_its_parts() -> None:
    first, second, third = (AddVector(f"blocks.{i}.hook_resid_post", torch.ones(2)) for i in range(3))
    total = first + (second + third)
    assert isinstance(total, InterventionSum)
    assert len(total) == 3
    assert list(total) == [first, second, third]
    assert third in total
    assert list(InterventionSum(total)) == [first, second, third]


def test_a_model_without_such_layers_or_width_is_refused_before_it_runs(any_model: Any) -> None:
    with pytest.raises(
        ValueError, match="has vectors of layers 2, 9, but the model .* has the layers 0 to 1"
    ):
        SteeringVectors(random_vectors(1, 2, 9)).interventions(any_model)
    with pytest.raises(ValueError, match="has vectors of layer 2, but the model"):
        SteeringVectors(random_vectors(2)).interventions(any_model)
    with pytest.raises(ValueError, match="has vectors of width 12, but the model .* has d_model 16"):
        SteeringVectors(random_vectors(1, width=12)).interventions(any_model)


def test_a_model_without_hooks_is_refused(llama: Any) -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM is no model with hook points"):
        SteeringVectors(random_vectors(1)).interventions(llama)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": float("nan")}, "strength = nan"),
        ({"positions": "last"}, "positions = 'last'"),
        ({"phases": ()}, r"phases = \(\)"),
    ],
)
def test_settings_that_are_none_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteeringVectors(random_vectors(1)).interventions(**settings)

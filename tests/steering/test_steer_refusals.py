"""What `steer` refuses: hooks, masks, widths, and interventions that acted on nothing."""

from typing import Any

import pytest
import torch

from sae_lens_ext.steering import AblateFeature, AddFeature, AddVector, ClampFeature, ScaleFeature, steer
from tests.steering.naive import EARLY, generate, sae_at, state_of
from tests.steering.test_steer import LATE, VECTOR


def test_unknown_hooks_and_empty_blocks_are_refused(any_model: Any) -> None:
    with (
        pytest.raises(ValueError, match="has no hook 'blocks.0.hook_rezid'"),
        steer(any_model, AddVector("blocks.0.hook_rezid", VECTOR)),
    ):
        pass
    with pytest.raises(ValueError, match="no intervention"), steer(any_model):
        pass
    with pytest.raises(ValueError, match="was given str as an intervention"), steer(any_model, "more"):  # type: ignore[arg-type]
        pass


def test_what_never_fired_is_an_error_that_names_it(any_model: Any, tokens: torch.Tensor) -> None:
    steering = AddVector(EARLY, VECTOR) + AblateFeature(sae_at(LATE), 2)
    with (
        pytest.raises(RuntimeError, match="'blocks.0.hook_resid_post' never fired, so AddVector"),
        steer(any_model, steering),
    ):
        pass
    with pytest.raises(RuntimeError, match="AblateFeature.*, 2.*did nothing"), steer(any_model, steering):
        any_model(tokens, stop_at_layer=1)
    idle = AblateFeature(sae_at(LATE), 2, positions=99)
    unreached = pytest.raises(RuntimeError, match=r"AblateFeature.* acted on no token.*positions=99")
    with unreached, steer(any_model, AddVector(EARLY, VECTOR), idle):
        any_model(tokens)


def test_a_feature_that_is_never_active_is_no_error(any_model: Any, tokens: torch.Tensor) -> None:
    sae = sae_at(EARLY)
    sae.threshold.data[:] = 1e9
    plain = any_model(tokens)
    with steer(any_model, ScaleFeature(sae, 0, 5.0)):
        assert torch.equal(any_model(tokens), plain)


def test_hooks_removed_by_somebody_are_an_error(any_model: Any, tokens: torch.Tensor) -> None:
    with (
        pytest.raises(RuntimeError, match="Somebody removed the hook"),
        steer(any_model, AddVector(EARLY, VECTOR)),
    ):
        any_model(tokens)
        any_model.reset_hooks()
        any_model(tokens)


def test_hooks_without_vectors_of_tokens_are_refused(hooked_model: Any, tokens: torch.Tensor) -> None:
    pattern = AddVector("blocks.0.attn.hook_pattern", torch.ones(16))
    with (
        pytest.raises(ValueError, match="Interventions act on vectors of tokens"),
        steer(hooked_model, pattern),
    ):
        hooked_model(tokens)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(3), r"that is \(3,\)"),
        ([[1, 1]], "that is list"),
        (torch.tensor([[1, 2]]), "other numbers than 0 and 1"),
        (torch.tensor([[1, 1], [0, 0]]), "a row of padding alone"),
    ],
)
def test_what_is_no_attention_mask_is_refused(hooked_model: Any, mask: Any, says: str) -> None:
    with (
        pytest.raises(ValueError, match=says),
        steer(hooked_model, AddVector(EARLY, VECTOR), attention_mask=mask),
    ):
        pass


def test_a_mask_of_other_prompts_is_refused(any_model: Any, tokens: torch.Tensor) -> None:
    steering = AddVector(EARLY, VECTOR)
    with (
        pytest.raises(ValueError, match="for prompts of 7 tokens"),
        steer(any_model, steering, attention_mask=torch.ones(4, 7)),
    ):
        generate(any_model, tokens[:, :5])
    with (
        pytest.raises(ValueError, match="for prompts of 20 tokens"),
        steer(any_model, steering, attention_mask=torch.ones(4, 20)),
    ):
        any_model(tokens)
    with (
        pytest.raises(ValueError, match="3 rows, but the model runs 4"),
        steer(any_model, steering, attention_mask=torch.ones(3, 16)),
    ):
        any_model(tokens)


def test_positions_in_a_list_of_texts_need_a_mask(any_model: Any) -> None:
    texts = ["w1 w2 w3", "w4"]
    with torch.no_grad(), steer(any_model, AddVector(EARLY, VECTOR)):
        any_model(texts)
    with (
        pytest.raises(ValueError, match="pads without saying where"),
        steer(any_model, AddVector(EARLY, VECTOR, positions=-1)),
    ):
        any_model(texts)
    with torch.no_grad(), steer(any_model, AddVector(EARLY, VECTOR, positions=-1)):
        any_model(texts[0])


@pytest.mark.parametrize(
    "name", [EARLY, "blocks.1.hook_resid_pre", "blocks.0.hook_mlp_out", "blocks.1.hook_attn_out"]
)
def test_a_width_that_is_not_the_models_is_refused_at_once(any_model: Any, name: str) -> None:
    before = state_of(any_model)
    with (
        pytest.raises(
            ValueError, match="adds a vector of 8 numbers, but .* have width 16, the model's d_model"
        ),
        steer(any_model, AddVector(name, torch.ones(8))),
    ):
        pytest.fail("the block began")
    sae = sae_at(name, d_in=8)
    for one in (AblateFeature(sae, 2), AddFeature(sae, 2, 1.0)):
        with pytest.raises(ValueError, match="8.* have width 16"), steer(any_model, one):
            pytest.fail("the block began")
    assert state_of(any_model) == before


def test_a_width_elsewhere_is_met_when_the_model_runs(any_model: Any, tokens: torch.Tensor) -> None:
    began = False
    with (
        pytest.raises(ValueError, match="adds a vector of 8 numbers, but the activations at"),
        steer(any_model, AddVector("blocks.0.mlp.hook_post", torch.ones(8))),
    ):
        began = True
        any_model(tokens)
    assert began


def test_two_settings_of_a_feature_are_refused_where_they_meet(any_model: Any, tokens: torch.Tensor) -> None:
    sae = sae_at(EARLY)
    meeting = ClampFeature(sae, 3, 2.0, positions=slice(4, None)) + AblateFeature(
        sae, 3, phases=("generation",)
    )
    ran = False
    with (
        pytest.raises(
            ValueError, match="ClampFeature.* and AblateFeature.* set one feature at the same token"
        ),
        steer(any_model, meeting),
    ):
        any_model(tokens)  # all of it is prompt
        ran = True
        generate(any_model, tokens[:, :5])
    assert ran


def test_a_model_without_hooks_is_refused(any_model: Any) -> None:
    for model in (None, torch.nn.Linear(2, 2), getattr(any_model, "original_model", None)):
        with (
            pytest.raises(
                ValueError, match="HookedTransformer, or a TransformerBridge: TransformerBridge.boot_tr"
            ),
            steer(model, AddVector(EARLY, VECTOR)),
        ):
            pytest.fail("the block began")

"""What each intervention adds, by hand; sums and multiples."""

from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    Transcoder,
    TranscoderConfig,
)

from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.steering import (
    AblateFeature,
    AddFeature,
    AddVector,
    ClampFeature,
    Intervention,
    InterventionSum,
    ScaleFeature,
)
from tests.steering.by_hand import NAN, after, hand_sae
from tests.steering.naive import EARLY, often_active, sae_at


def test_a_vector_is_added_times_its_strength() -> None:
    added = AddVector(EARLY, torch.tensor([3.0, 4.0]), strength=2.0)
    assert after(added, [1.0, 1.0], [0.0, -8.0]) == [[7.0, 9.0], [6.0, 0.0]]


def test_a_relative_strength_is_in_units_of_each_tokens_norm() -> None:
    added = AddVector(EARLY, torch.tensor([0.0, 4.0]), strength=2.0, relative=True)
    assert after(added, [3.0, 4.0], [-1.0, 0.0]) == [[3.0, 14.0], [-1.0, 2.0]]
    feature = AddFeature(hand_sae(), 1, -1.0, relative=True)
    assert after(feature, [3.0, 4.0]) == [[3.0, -1.0]]


def test_a_feature_is_added_at_unit_length() -> None:
    [row] = after(AddFeature(hand_sae(), 0, strength=10.0), [-1.0, 0.0])
    assert row == pytest.approx([5.0, 8.0])


def test_scaling_adds_the_live_activation_times_r_minus_one() -> None:
    # a = 2 on the first token, 0 on the second, where nothing changes; (−1 − 1) · 2 · (3, 4)
    assert after(ScaleFeature(hand_sae(), 0, -1.0), [2.0, 5.0], [-2.0, 5.0]) == [[-10.0, -11.0], [-2.0, 5.0]]


def test_ablating_takes_away_what_the_feature_adds() -> None:
    assert after(AblateFeature(hand_sae(), 1), [2.0, 5.0]) == [[2.0, -3.0]]
    assert after(ScaleFeature(hand_sae(), 1, 0.0), [2.0, 5.0]) == [[2.0, -3.0]]


def test_clamping_sets_the_activation_and_leaves_the_error() -> None:
    # a = 4 and 0; (7 − a) · (0, 2)
    assert after(ClampFeature(hand_sae(), 1, 7.0), [2.0, 5.0], [2.0, 0.0]) == [[2.0, 11.0], [2.0, 14.0]]


@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu"])
def test_clamping_is_the_difference_of_two_decodings(kind: str, normalisation: str) -> None:
    torch.manual_seed(3)
    if kind == "jumprelu":
        sae: Any = sae_at(EARLY, normalize_activations=normalisation)
    elif kind == "topk":
        sae = TopKSAE(
            TopKSAEConfig(
                d_in=16, d_sae=24, k=4, rescale_acts_by_decoder_norm=True, normalize_activations=normalisation
            )
        )
    else:
        sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=24, normalize_activations=normalisation))
    sae.cfg.metadata.hook_name = EARLY
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, 24)[:, None]
        x = torch.randn(2, 5, 16)
        acts = sae.encode(x)
        original = sae.decode(acts.clone())
        sae.encode(x)  # what scales each token is forgotten at decoding
        acts[..., 7], acts[..., 9] = 1.5, 0.0
        edited = sae.decode(acts)
        [(_, hook)] = (ClampFeature(sae, 7, 1.5) + AblateFeature(sae, 9)).hooks()
        torch.testing.assert_close(hook(x), x + edited - original, atol=1e-4, rtol=1e-4)
    assert not hasattr(sae, "ln_std") and not hasattr(sae, "x_norm_coeff")


def test_a_training_sae_is_taken_as_it_would_be_saved() -> None:
    """In training the batch decides which latents fire, after saving a threshold does."""
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=16, d_sae=24, k=4))
    sae.cfg.metadata.hook_name = EARLY
    sae.topk_threshold.fill_(0.3)
    x = 10 * torch.randn(1, 7, 16)
    with torch.no_grad():
        saved = as_inference(sae)
        index = often_active(saved, x)
        [(_, hook)] = AblateFeature(sae, index).hooks()
        a = saved.encode(x)[..., index, None]
        assert not torch.equal(sae.encode(x)[..., index, None], a)
        torch.testing.assert_close(hook(x), x - a * saved.W_dec[index])


def test_the_sum_is_of_changes_to_the_same_activation_in_any_order() -> None:
    # from a = 2 at x = (2, 5): (5 − 2)(3, 4) + (−1)·4·(0, 2) + (1, 0)
    parts = [
        ClampFeature(hand_sae(), 0, 5.0),
        AblateFeature(hand_sae(), 1),
        AddVector(EARLY, torch.tensor([1.0, 0.0])),
    ]
    for order in (parts, parts[::-1]):
        assert after(order[0] + order[1] + order[2], [2.0, 5.0]) == [[12.0, 9.0]]
        assert after(sum(order), [2.0, 5.0]) == [[12.0, 9.0]]  # type: ignore[arg-type]
        assert after(InterventionSum(order), [2.0, 5.0]) == [[12.0, 9.0]]


@pytest.mark.parametrize(
    "intervention",
    [
        AddVector(EARLY, torch.tensor([3.0, -4.0]), 0.5),
        AddVector(EARLY, torch.tensor([3.0, -4.0]), 0.5, relative=True),
        AddFeature(hand_sae(), 1, 2.0),
        ScaleFeature(hand_sae(), 0, 3.0),
        ClampFeature(hand_sae(), 1, 1.0),
        AblateFeature(hand_sae(), 0),
        AblateFeature(hand_sae(), 0) + AddVector(EARLY, torch.tensor([1.0, 0.0])),
    ],
    ids=repr,
)
def test_a_multiple_scales_the_change(intervention: Intervention) -> None:
    x = torch.tensor([2.0, 5.0])
    change = torch.tensor(after(intervention, x.tolist())[0]) - x
    assert change.norm() > 0
    multiples = [
        (2, 2 * intervention),
        (-0.5, intervention * -0.5),
        (-1, -intervention),
        (0.25, intervention / 4),
        (2, np.float32(2) * intervention),
        (2, torch.tensor(2.0) * intervention),
        (-2, intervention / torch.tensor(-0.5)),
        (2, np.array(2) * intervention),
    ]
    for times, scaled in multiples:
        torch.testing.assert_close(torch.tensor(after(scaled, x.tolist())[0]) - x, times * change)


def test_tokens_that_are_not_selected_keep_their_bits() -> None:
    x = torch.tensor([[[-0.0, 1.0], [NAN, 2.0], [3.0, 4.0]]])
    [(_, hook)] = (
        AddFeature(hand_sae(), 0, 1.0, positions=2) + AblateFeature(hand_sae(), 1, positions=[2])
    ).hooks()
    new = hook(x)
    assert torch.equal(new[0, :2].view(torch.int32), x[0, :2].view(torch.int32))
    assert not torch.equal(new[0, 2], x[0, 2])


def test_what_the_sae_does_not_reconstruct_stays() -> None:
    """Along what is orthogonal to the decoder row the activation keeps its value."""
    x = torch.tensor([[[2.0, 5.0]]])
    [(_, hook)] = ClampFeature(hand_sae(), 1, 100.0).hooks()
    assert hook(x)[0, 0, 0].item() == 2.0


def test_activations_in_bfloat16_are_read_in_the_saes_precision() -> None:
    sae, x = sae_at(EARLY), torch.randn(1, 9, 16).bfloat16()
    [(_, hook)] = AblateFeature(sae, 4).hooks()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        new = hook(x)
    with torch.no_grad():
        a = sae.encode(x.float())[..., 4:5]
        expected = x + (-a * sae.W_dec[4]).bfloat16()
    assert new.dtype == torch.bfloat16 and torch.equal(new, expected) and (a > 0).any()


def test_one_sae_encodes_once_for_all_of_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = sae_at(EARLY)
    calls, encode = [], sae.encode
    monkeypatch.setattr(sae, "encode", lambda x: calls.append(x.shape) or encode(x))
    several = sum(AblateFeature(sae, i) for i in range(5)) + sum(AddFeature(sae, i, 1.0) for i in range(5))  # type: ignore[operator]
    [(_, hook)] = (several + ScaleFeature(sae, 9, 2.0, positions=1)).hooks()
    with torch.no_grad():
        hook(torch.randn(2, 3, 16))
        assert calls == [(6, 16)]  # an encoder of somebody's own is run whole
        [(_, hook)] = (AblateFeature(sae, 0, positions=-1) + AddFeature(sae, 0, 1.0)).hooks()
        hook(torch.randn(2, 3, 16))
        assert calls[1:] == [(2, 16)]  # of the tokens that are read, and no others


def test_gradients_reach_the_vector() -> None:
    x, weights = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    vector = torch.randn(3, requires_grad=True)
    [(_, hook)] = AddVector(EARLY, vector, 2.0, positions=[1, 2]).hooks()
    (hook(x) * weights).sum().backward()
    torch.testing.assert_close(vector.grad, 2.0 * weights[:, 1:3].sum(dim=(0, 1)))


def test_gradients_of_a_relative_vector_are_autograds() -> None:
    x, weights = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    vector = torch.randn(3, requires_grad=True)
    [(_, hook)] = AddVector(EARLY, vector, 0.5, relative=True).hooks()
    (hook(x) * weights).sum().backward()
    v = vector.detach()
    along = torch.eye(3) / v.norm() - torch.outer(v, v) / v.norm() ** 3
    torch.testing.assert_close(
        vector.grad, 0.5 * ((x.norm(dim=-1, keepdim=True) * weights).sum(dim=(0, 1)) @ along)
    )


def test_one_head_of_many_is_steered_and_the_others_keep_their_bits() -> None:
    sae = sae_at("blocks.0.attn.hook_z", d_in=8)
    sae.cfg.metadata.hook_head_index = 1
    x = torch.randn(2, 3, 2, 8)
    with torch.no_grad():
        [(name, hook)] = (AddFeature(sae, 2, 1.0) + AblateFeature(sae, 5)).hooks()
        new = hook(x)
        row, a = sae.W_dec[2], sae.encode(x[:, :, 1])[..., 5:6]
    assert name == "blocks.0.attn.hook_z" and torch.equal(new[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(new[:, :, 1], (x[:, :, 1] + row / row.norm() - a * sae.W_dec[5]).detach())


def test_an_sae_of_all_heads_reads_them_flattened() -> None:
    sae = sae_at("blocks.0.attn.hook_z", reshape_activations="hook_z")
    x = torch.randn(2, 3, 2, 8)
    with torch.no_grad():
        [(_, hook)] = (AblateFeature(sae, 5) + AddVector("blocks.0.attn.hook_z", torch.ones(16))).hooks()
        new = hook(x).flatten(2)
        a = sae.encode(x)[..., 5:6]
    assert sae.hook_z_reshaping_mode
    torch.testing.assert_close(new, x.flatten(2) + 1 - a * sae.W_dec[5].detach())


def test_a_transcoders_feature_is_added_where_it_writes() -> None:
    transcoder = Transcoder(TranscoderConfig(d_in=16, d_out=16, d_sae=24, apply_b_dec_to_input=False))
    transcoder.cfg.metadata.hook_name, transcoder.cfg.metadata.hook_name_out = (
        "blocks.0.hook_mlp_in",
        "blocks.0.hook_mlp_out",
    )
    assert AddFeature(transcoder, 0, 1.0).hook_names == ("blocks.0.hook_mlp_out",)
    with pytest.raises(
        ValueError, match="a transcoder: its features are read at another hook than they act at"
    ):
        AblateFeature(transcoder, 0)


def test_hook_names_are_each_named_once() -> None:
    one, other = AddVector("a", torch.ones(2)), AddVector("b", torch.ones(2))
    assert (one + other + one).hook_names == ("a", "b") and one.hook_names == ("a",)
    assert AddFeature(sae_at(EARLY), 0, 1.0).hook_names == (EARLY,)
    assert AddFeature(sae_at(EARLY), 0, 1.0, hook_name="blocks.1.hook_out").hook_names == (
        "blocks.1.hook_out",
    )


def test_scalings_of_one_feature_add_up() -> None:
    twice = ScaleFeature(hand_sae(), 0, 2.0)
    assert after(twice + ScaleFeature(twice.sae, 0, -1.0), [2.0, 5.0]) == [[2 + 2 * 3 - 4 * 3, 5 + 8 - 16]]
    assert after(AblateFeature(twice.sae, 0) / 2 + AblateFeature(twice.sae, 0) / 2, [2.0, 5.0]) == [[-4, -3]]

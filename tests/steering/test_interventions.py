"""What each intervention adds, by hand; sums and multiples; what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    Transcoder,
    TranscoderConfig,
)

from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.residual import BASE_METADATA_KEY
from sae_lens_ext.steering import (
    AblateFeature,
    AddFeature,
    AddVector,
    ClampFeature,
    Intervention,
    InterventionSum,
    ScaleFeature,
)
from sae_lens_ext.steering.effects import LatentChange
from sae_lens_ext.steering.live_latents import LiveLatents
from tests.steering.naive import EARLY, often_active, sae_at

NAN, INFINITY = float("nan"), float("inf")


def hand_sae(**fields: Any) -> StandardSAE:
    """Two features on two dimensions: a = relu((x0, x1 − 1)), rows (3, 4) and (0, 2)."""
    sae = StandardSAE(StandardSAEConfig(d_in=2, d_sae=2, apply_b_dec_to_input=False, **fields))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(2))
        sae.b_enc.copy_(torch.tensor([0.0, -1.0]))
        sae.W_dec.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        sae.b_dec.copy_(torch.tensor([10.0, 10.0]))
    sae.cfg.metadata.hook_name = EARLY
    return sae


def after(intervention: Intervention, *rows: list[float]) -> list[list[float]]:
    """Run its hook on activations of one sequence."""
    [(_, hook)] = intervention.hooks()
    x = torch.tensor([rows])
    new = hook(x, hook=None)
    return (x if new is None else new)[0].tolist()


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


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        (torch.ones(2, 2), r"a vector that is \(2, 2\)"),
        (torch.ones(2, dtype=torch.long), "torch.int64"),
        ([1.0, 2.0], "a vector that is list"),
        (torch.tensor([1.0, NAN]), "NaN or infinity"),
        (torch.tensor([1.0, INFINITY]), "NaN or infinity"),
    ],
)
def test_what_is_no_vector_is_refused(vector: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AddVector(EARLY, vector)


@pytest.mark.parametrize("number", [NAN, INFINITY, True, "2", None])
def test_what_is_no_number_is_refused(number: Any) -> None:
    sae = sae_at(EARLY)
    for make in (
        lambda: AddVector(EARLY, torch.ones(2), number),
        lambda: AddFeature(sae, 0, number),
        lambda: ScaleFeature(sae, 0, number),
        lambda: ClampFeature(sae, 0, number),
        lambda: AblateFeature(sae, 0) * number,
    ):
        with pytest.raises(ValueError, match="Give a finite number"):
            make()


@pytest.mark.parametrize("make", [lambda *a: AddFeature(*a, 1.0), AblateFeature], ids=["add", "ablate"])
def test_what_is_no_feature_is_refused(make: Any) -> None:
    sae = sae_at(EARLY)
    for index, says in ((24, "has the features 0 to 23"), (-1, "0 to 23"), (True, "an int"), (1.0, "an int")):
        with pytest.raises(ValueError, match=says):
            make(sae, index)
    with pytest.raises(ValueError, match="was given str as the SAE"):
        make("sae", 0)
    with pytest.raises(ValueError, match="names no hook in its metadata"):
        make(sae_at(None), 0)
    unfolded = StandardSAE(
        StandardSAEConfig(d_in=4, d_sae=4, normalize_activations="expected_average_only_in")
    )
    with pytest.raises(ValueError, match="never folded"):
        make(unfolded, 0)
    sae.cfg.metadata[BASE_METADATA_KEY] = {"architecture": "topk"}
    with pytest.raises(ValueError, match="a residual SAE by itself"):
        make(sae, 0)


def test_a_feature_without_a_direction_is_refused() -> None:
    sae = sae_at(EARLY)
    sae.W_dec.data[3] = 0
    sae.W_dec.data[4] = NAN
    for index in (3, 4):
        with pytest.raises(ValueError, match="zero, NaN or infinite"):
            AddFeature(sae, index, 1.0)
    with pytest.raises(ValueError, match="NaN or infinity in them"):
        AblateFeature(sae, 4).hooks()
    with pytest.raises(ValueError, match="zeros have no direction"):
        AddVector(EARLY, torch.zeros(2), relative=True)


def test_a_decoder_that_is_no_sum_is_refused() -> None:
    class Squares(StandardSAE):
        def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
            return super().decode(feature_acts**2)

    sae = Squares(StandardSAEConfig(d_in=4, d_sae=4))
    sae.cfg.metadata.hook_name = EARLY
    with pytest.raises(ValueError, match="does not decode to a sum"):
        (AblateFeature(sae, 0) + AblateFeature(sae, 1)).hooks()


SETTERS: dict[str, Any] = {
    "clamp": lambda sae, **where: ClampFeature(sae, 1, 2.0, **where),
    "ablate": lambda sae, **where: AblateFeature(sae, 1, **where),
    "scale": lambda sae, **where: ScaleFeature(sae, 1, 0.0, **where),
}


@pytest.mark.parametrize("first", SETTERS)
@pytest.mark.parametrize("second", SETTERS)
def test_two_values_for_one_feature_are_refused_where_they_meet(first: str, second: str) -> None:
    sae, x = sae_at(EARLY), torch.randn(1, 3, 16)
    one, other = SETTERS[first], SETTERS[second]
    with pytest.raises(ValueError, match="set one feature at the same token, .* add up to a third value"):
        (one(sae) + other(sae)).hooks()
    for positions in (slice(1, None), [2, 0], torch.tensor([[True, False, True]])):
        [(_, hook)] = (one(sae, positions=positions) + other(sae, positions=-1)).hooks()
        with pytest.raises(ValueError, match="positions or phases that do not overlap"):
            hook(x)
    apart = one(sae, positions=0) + other(sae, positions=[1, 2])
    [(_, hook)] = apart.hooks()
    both = x
    for part in apart.parts:
        [(_, alone)] = part.hooks()
        both = both + alone(x) - x
    torch.testing.assert_close(hook(x), both)
    (one(sae) + other(sae_at(EARLY))).hooks()  # another SAE


def test_scalings_of_one_feature_add_up() -> None:
    twice = ScaleFeature(hand_sae(), 0, 2.0)
    assert after(twice + ScaleFeature(twice.sae, 0, -1.0), [2.0, 5.0]) == [[2 + 2 * 3 - 4 * 3, 5 + 8 - 16]]
    assert after(AblateFeature(twice.sae, 0) / 2 + AblateFeature(twice.sae, 0) / 2, [2.0, 5.0]) == [[-4, -3]]


def test_a_wrong_width_is_refused_when_it_is_met() -> None:
    x = torch.randn(1, 2, 5)
    [(_, hook)] = AddVector(EARLY, torch.ones(4)).hooks()
    with pytest.raises(
        ValueError, match="adds a vector of 4 numbers, but the activations at .* have width 5"
    ):
        hook(x)
    for steering in (AddFeature(sae_at(EARLY), 0, 1.0), AblateFeature(sae_at(EARLY), 0)):
        [(_, hook)] = steering.hooks()
        with pytest.raises(ValueError, match=r"(vector of 16 numbers|d_in = 16)"):
            hook(x)
    with pytest.raises(ValueError, match="where another adds 16"):
        (AddFeature(sae_at(EARLY), 0, 1.0) + AddFeature(sae_at(EARLY, d_in=4), 0, 1.0)).hooks()


def test_what_is_no_intervention_is_refused() -> None:
    with pytest.raises(ValueError, match="was given int as an intervention"):
        InterventionSum([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no intervention"):
        InterventionSum([])
    with pytest.raises(TypeError):
        AddVector(EARLY, torch.ones(2)) + 3  # type: ignore[operator]


def encoder(kind: str, **fields: Any) -> Any:
    """A random SAE on 16 dimensions with 24 latents."""
    if kind == "jumprelu":
        return sae_at(EARLY, **fields)
    if kind == "topk":
        sae: Any = TopKSAE(TopKSAEConfig(d_in=16, d_sae=24, k=4, **fields))
    else:
        sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=24, **fields))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    sae.cfg.metadata.hook_name = EARLY
    return sae


def latents_of(sae: Any, indices: list[int]) -> LiveLatents:
    return LiveLatents([LatentChange(sae, index, -1.0, 0.0) for index in indices])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"apply_b_dec_to_input": False},
        {"reshape_activations": "hook_z"},
        {"dtype": "float64"},
        {"normalize_activations": "layer_norm"},
        {"normalize_activations": "constant_norm_rescale"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_the_latents_needed_are_encoded_as_the_whole_sae_encodes_them(
    kind: str, fields: dict[str, Any]
) -> None:
    sae, indices = encoder(kind, **fields), [3, 17, 3, 0]
    sae.cfg.metadata.hook_name = "blocks.0.attn.hook_z"
    sae.hook_sae_acts_post.add_hook(lambda acts, hook: acts + 1)  # nobody's hooks are heard
    x = torch.randn(50, 16)
    latents = latents_of(sae, indices)
    with torch.no_grad():
        found, scale = latents.acts(x)
        sae.reset_hooks()
        with flat_heads(sae):
            expected = sae.encode(x)
        expected = expected.to_dense() if expected.is_sparse else expected
    assert found.dtype == expected.dtype and (found > 0).any() and (found == 0).any()
    torch.testing.assert_close(found, expected[:, indices])
    by_columns = kind != "topk" and "normalize_activations" not in fields
    assert (latents._columns is not None) == by_columns
    assert (scale is not None) == ("normalize_activations" in fields)


def test_a_few_latents_are_encoded_without_the_others() -> None:
    for kind in ("standard", "jumprelu"):
        sae = encoder(kind)
        with torch.no_grad():
            sae.W_enc[:, 5] = NAN  # of others, nothing is read
            x = torch.randn(9, 16)
            assert torch.isfinite(latents_of(sae, [3]).acts(x)[0]).all()
            assert torch.isnan(latents_of(sae, [5]).acts(x)[0]).any()


def test_an_encoder_of_ones_own_is_run_whole() -> None:
    class Shifted(StandardSAE):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return super().encode(x) + 1

    class Prepared(JumpReLUSAE):
        def process_sae_in(self, sae_in: torch.Tensor) -> torch.Tensor:
            return 2 * super().process_sae_in(sae_in)

    class Smooth(StandardSAE):
        def get_activation_fn(self) -> Any:
            return torch.nn.Softplus()

    x = torch.randn(9, 16)
    for sae in (
        Shifted(StandardSAEConfig(d_in=16, d_sae=24)),
        Prepared(JumpReLUSAEConfig(d_in=16, d_sae=24)),
        Smooth(StandardSAEConfig(d_in=16, d_sae=24)),
    ):
        with torch.no_grad():
            assert torch.equal(latents_of(sae, [2]).acts(x)[0], sae.encode(x)[:, [2]])


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
def test_gradients_reach_the_activation_and_not_the_sae(kind: str, normalisation: str) -> None:
    sae = encoder(kind, normalize_activations=normalisation)
    x, weights = torch.randn(1, 6, 16, requires_grad=True), torch.randn(1, 6, 16)
    with torch.no_grad():
        index = often_active(sae, x)
    [(_, hook)] = ScaleFeature(sae, index, 3.0).hooks()
    (hook(x) * weights).sum().backward()
    assert x.grad is not None and not torch.equal(x.grad, weights)
    assert all(p.requires_grad and p.grad is None for p in sae.parameters())
    y = x.detach().clone().requires_grad_()
    encoded = sae.encode(y)
    a = (encoded.to_dense() if encoded.is_sparse else encoded)[..., index, None]
    if normalisation == "layer_norm":
        a = a * sae.ln_std
    norm = sae.W_dec[index].norm() if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else 1.0
    ((y + 2 * a * sae.W_dec[index].detach() / norm) * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_a_feature_may_be_numbered_by_numpy_and_pytorch() -> None:
    sae = sae_at(EARLY)
    for index in (np.int64(3), torch.tensor(3), np.array(3), torch.tensor([5, 3]).argmin()):
        for made in (AddFeature(sae, index, 1.0), AblateFeature(sae, index), ClampFeature(sae, index, 1.0)):
            assert type(made.index) is int and made.index == int(index)
    for index in (
        torch.tensor(1.0),
        torch.tensor([1, 2]),
        np.array([1, 2]),
        np.bool_(True),
        torch.tensor(True),
    ):
        with pytest.raises(ValueError, match="an int; add interventions for several"):
            AblateFeature(sae, index)  # type: ignore[arg-type]


def test_numbers_may_be_of_numpy_and_pytorch() -> None:
    sae = sae_at(EARLY)
    for number in (np.float32(0.5), torch.tensor(0.5), np.array(0.5)):
        made: list[Any] = [
            AddVector(EARLY, torch.ones(2), number).strength,  # type: ignore[arg-type]
            AddFeature(sae, 1, number).strength,  # type: ignore[arg-type]
            ScaleFeature(sae, 1, number).factor,  # type: ignore[arg-type]
            ClampFeature(sae, 1, number).value,  # type: ignore[arg-type]
        ]
        assert made == [0.5] * 4 and {type(value) for value in made} == {float}
    with pytest.raises(ValueError, match="requires grad, but gradients do not reach it"):
        AddFeature(sae, 1, torch.tensor(0.5, requires_grad=True))  # type: ignore[arg-type]
    for number in (torch.tensor([1.0, 2.0]), torch.tensor(NAN), torch.tensor(True)):
        with pytest.raises(ValueError, match="Give a finite number"):
            AddFeature(sae, 1, number)  # type: ignore[arg-type]


def test_a_difference_adds_the_one_and_takes_the_other_away() -> None:
    one, other = AddVector(EARLY, torch.tensor([3.0, 4.0])), AblateFeature(hand_sae(), 1)
    assert after(one - other, [2.0, 5.0]) == [[5.0, 17.0]]
    assert after(one - one, [2.0, 5.0]) == [[2.0, 5.0]]
    assert after((one - other) / 2, [2.0, 5.0]) == [[3.5, 11.0]]
    with pytest.raises(TypeError):
        one - 3  # type: ignore[operator]
    with pytest.raises(ValueError, match="AddVector was divided by 0"):
        one / 0
    with pytest.raises(ValueError, match="a divisor = 'two'"):
        one / "two"  # type: ignore[operator]


def test_vectors_that_nobody_trains_are_summed_once() -> None:
    vectors = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    trained = torch.tensor([1.0, 1.0], requires_grad=True)
    [(_, hook)] = (
        AddVector(EARLY, vectors[0]) + AddVector(EARLY, vectors[1], 2.0) + AddVector(EARLY, trained)
    ).hooks()
    x = torch.zeros(1, 1, 2)
    assert hook(x).tolist() == [[[8.0, 11.0]]]
    with torch.no_grad():
        vectors[0].zero_()
        trained.zero_()
    assert hook(x).tolist() == [[[7.0, 10.0]]]  # what is trained is read at every pass


def test_vectors_summed_under_inference_mode_let_gradients_through() -> None:
    with torch.inference_mode():
        [(_, hook)] = AddVector(EARLY, torch.tensor([3.0, 4.0]), relative=True).hooks()
    x = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    hook(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[[1 + 1.4, 1.0]]]))


def test_a_repr_shows_what_is_not_default() -> None:
    sae = sae_at(EARLY)
    assert repr(AddVector("a", torch.ones(3))) == "AddVector('a', [3], strength=1)"
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert (
        repr(AddVector("a", torch.ones(3), 2.5, mask, ("prompt",), relative=True))
        == "AddVector('a', [3], strength=2.5, positions=mask [2, 5], phases=('prompt',), relative=True)"
    )
    assert repr(AddFeature(sae, 3, 1.0)) == f"AddFeature({EARLY!r}, 3, strength=1)"
    assert (
        repr(ClampFeature(sae, 3, 5.0, "b", slice(1, None), weight=0.5))
        == f"ClampFeature({EARLY!r}, 3, value=5, hook_name='b', positions=slice(1, None, None), weight=0.5)"
    )
    both = AblateFeature(sae, 1, phases=("generation", "prompt")) + ScaleFeature(sae, 2, -1.0)
    assert repr(both) == f"AblateFeature({EARLY!r}, 1) + ScaleFeature({EARLY!r}, 2, factor=-1)"


def test_activations_that_are_no_vectors_of_tokens_are_refused() -> None:
    [(_, hook)] = AddVector(EARLY, torch.ones(2)).hooks()
    with pytest.raises(ValueError, match=r"are Tensor of the shape \(4, 2\). Interventions act on vectors"):
        hook(torch.ones(4, 2))

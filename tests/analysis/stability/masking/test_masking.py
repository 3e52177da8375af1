"""Masked latents: against zeroing and decoding by hand, and where the numbers are known."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

from sae_lens_ext import ResidualStackSAE
from sae_lens_ext.analysis.stability.masking.subsets import draw_maskings
from sae_lens_ext.architectures.inference import as_inference
from tests.analysis.domains import CONTEXT, D_MODEL, HEADS, N_CONTEXTS, RESIDUAL, TEXTS, evaluate, sae_at
from tests.analysis.stability.masking.masking_cases import (
    CE_CONTEXTS,
    SEED,
    STABLE,
    UNSTABLE,
    ByHand,
    curve_of,
    key_of,
    report_of,
    sets_of,
    two_latents,
)
from tests.architectures.bases import base_sae, residual_for
from tests.language_model.test_hook_points import own_name


def of_kind(kind: str, **fields: Any) -> Callable[[str], SAE[Any]]:
    def make(hook_name: str) -> SAE[Any]:
        sae = base_sae(kind, d_in=D_MODEL, **fields)
        sae.cfg.metadata.hook_name = hook_name
        return sae

    return make


def stack(hook_name: str) -> SAE[Any]:
    base = of_kind("rescaled_topk", d_sae=14)(hook_name)
    return ResidualStackSAE.from_saes(base, {"code": residual_for(base, d_in=D_MODEL)})


def at_heads(hook_name: str) -> SAE[Any]:
    return sae_at(hook_name, **({"reshape_activations": "hook_z"} if hook_name.endswith("_z") else {}))


def at_head(hook_name: str) -> SAE[Any]:
    sae = sae_at(hook_name, d_in=8)
    sae.cfg.metadata.hook_head_index = 1
    return sae


def assert_is_by_hand(model: Any, hook: str, sae: SAE[Any], rel: float = 1e-5) -> None:
    curve, hand = curve_of(model, sae), ByHand(model, hook, sae)
    stable, unstable = torch.tensor(STABLE), torch.tensor(UNSTABLE)
    sets = sets_of(draw_maskings(stable, unstable, (2, 5, 8, 16), hand.fired, n_draws=2, seed=SEED))
    assert [key_of(row) for row in curve.rows] == [
        (group, draw, n)
        for group, counts in (
            ("stable", (0, 2, 5, 8)),
            ("unstable", (0, 2, 5, 8, 16)),
            ("frequency-matched", (0, 2, 5, 8)),
        )
        for draw in (0, 1)
        for n in counts
    ]
    activity = hand.decoded([])[0][hand.counted].double().abs().sum(dim=0)
    for row in curve.rows:
        masked = sets[key_of(row)]
        assert row.ev == pytest.approx(hand.ev(masked), rel=rel, abs=rel)
        assert row.ce == pytest.approx(hand.ce(masked), rel=rel)
        assert row.share_of_activation == pytest.approx((activity[masked].sum() / activity.sum()).item())
        assert row.mean_firing_rate == (pytest.approx(hand.rate(masked)) if masked else None)
    assert curve.ce == pytest.approx(hand.clean_ce(), rel=rel)
    assert (curve.ev, curve.ce_with) == (curve.rows[0].ev, curve.rows[0].ce)
    assert (curve.n_stable, curve.n_unstable, curve.sae) == (8, 16, "one")
    assert curve.n_tokens == hand.counted.sum()
    assert curve.n_predictions == hand.counted[:CE_CONTEXTS, :-1].sum()
    assert len({round(row.ev, 6) for row in curve.rows}) > 12  # nothing was taken for something else


def test_masking_curve_is_zeroing_and_decoding_by_hand_on_every_model(any_model: Any) -> None:
    hook = own_name(any_model, *RESIDUAL)
    assert_is_by_hand(any_model, hook, sae_at(hook))


@pytest.mark.parametrize(
    ("kind", "make", "hooks"),
    [
        ("hooked_model", of_kind("standard"), RESIDUAL),
        ("hooked_model", of_kind("gated"), RESIDUAL),
        ("hooked_model", of_kind("topk"), RESIDUAL),
        ("hooked_model", of_kind("rescaled_topk"), RESIDUAL),
        ("hooked_model", of_kind("jumprelu", apply_b_dec_to_input=False), RESIDUAL),
        ("hooked_model", of_kind("topk", normalize_activations="layer_norm"), RESIDUAL),
        ("hooked_model", stack, RESIDUAL),
        ("hooked_model", at_heads, HEADS),
        ("hooked_model", at_head, HEADS),
        ("sae_bridge", of_kind("topk"), RESIDUAL),
        ("sae_bridge", of_kind("jumprelu", normalize_activations="constant_norm_rescale"), RESIDUAL),
        ("sae_bridge", at_heads, HEADS),
        ("sae_bridge", at_head, HEADS),
    ],
)
def test_masking_curve_is_zeroing_and_decoding_by_hand_for_every_sae(
    kind: str, request, make: Callable[[str], SAE[Any]], hooks: tuple[str, str]
) -> None:
    model = request.getfixturevalue(kind)
    hook = own_name(model, *hooks)
    assert_is_by_hand(model, hook, make(hook), rel=1e-4)


def test_masking_curve_of_an_sae_in_bfloat16(hooked_model) -> None:
    sae = sae_at(RESIDUAL[0]).to(dtype=torch.bfloat16)
    assert_is_by_hand(hooked_model, RESIDUAL[0], sae, rel=2e-2)  # decoding by hand rounds what is left


def test_masking_curve_of_two_latents_that_carry_all_variance(hooked_model) -> None:
    def known(x: torch.Tensor, hook: Any) -> torch.Tensor:
        even = (tokens[offset[0] : offset[0] + len(x)] % 2 == 0).to(x.dtype)
        offset[0] = (offset[0] + len(x)) % len(tokens)
        x = torch.zeros_like(x)
        x[..., 0], x[..., 1] = 3 * even, 4 * (1 - even)
        return x

    sae, offset = two_latents(), [0]
    hand = ByHand(hooked_model, RESIDUAL[0], sae)
    tokens = hand.tokens
    hooked_model.hook_dict[RESIDUAL[0]].add_hook(known)
    curve = curve_of(
        hooked_model,
        sae,
        report_of([0, 1], [2, 3, 4, 5], d_sae=6),
        counts=(1, 2, 4),
        n_draws=6,
        max_ce_tokens=0,
    )
    p = (tokens[tokens != 0] % 2 == 0).double().mean().item()  # share of even tokens
    # x is 3 e0 on a share p and 4 e1 on the others: E‖x‖² − ‖E x‖², and what is lost is the one, the other, or both.
    variance = 9 * p + 16 * (1 - p) - 9 * p**2 - 16 * (1 - p) ** 2
    lost = {0: 9 * p / variance, 1: 16 * (1 - p) / variance}
    assert curve.ev == pytest.approx(1)
    assert {round(row.ev, 5) for row in curve.at("stable", 1)} == {
        round(1 - part, 5) for part in lost.values()
    }
    for row in curve.at("stable", 2):
        assert row.ev == pytest.approx(1 - lost[0] - lost[1])
        assert (row.share_of_activation, row.mean_firing_rate) == (1, pytest.approx(0.5))
    for n in (1, 2, 4):  # they never fire: masking them changes nothing
        for row in curve.at("unstable", n):
            assert (row.ev, row.mean_firing_rate, row.share_of_activation) == (curve.ev, 0, 0)


def test_masking_curve_with_all_latents_masked_is_that_of_decoding_nothing(any_model: Any) -> None:
    hook = own_name(any_model, *RESIDUAL)
    sae = sae_at(hook)
    sae.threshold.data[23] = 1e6  # of all that fire, none is left
    curve = curve_of(any_model, sae, report_of(list(range(23)), [23]), counts=[23])
    sae.threshold.data[:] = 1e6
    nothing = ByHand(any_model, hook, sae)
    assert nothing.fired.sum() == 0  # so that the output is decode(0)
    for row in curve.at("stable", 23):
        assert row.ev == pytest.approx(nothing.ev([]), abs=1e-5)
        assert row.ce == pytest.approx(nothing.ce([]), rel=1e-5)
        assert row.share_of_activation == 1


def test_masking_curve_with_nothing_masked_is_evaluate_domains(any_model: Any) -> None:
    sae = sae_at(own_name(any_model, *RESIDUAL))
    curve = curve_of(any_model, sae, max_ce_tokens=10_000)
    row = evaluate(any_model, {"a": sae}, seed=SEED).at("a", "code")
    assert curve.ev == row.ev and curve.n_tokens == row.n_tokens
    assert curve.ce == pytest.approx(row.ce, rel=1e-7)
    assert curve.ce_with == pytest.approx(row.ce_with, rel=1e-6)


def test_masking_curve_falls_where_latents_do_not_overlap(hooked_model) -> None:
    sae = two_latents()
    curve = curve_of(hooked_model, sae, report_of([0, 1, 2], [3, 4, 5], d_sae=6), counts=(1, 2, 3))
    for group in ("stable", "unstable"):
        for draw in (0, 1):
            falling = [row.ev for row in curve.rows if (row.group, row.draw) == (group, draw)]
            assert falling == sorted(falling, reverse=True) and len(set(falling)) == 4


def test_masking_curve_of_two_classes_that_are_copies_shows_no_asymmetry(hooked_model) -> None:
    twice = sae_at(RESIDUAL[0])
    for parameter in (twice.W_enc, twice.b_enc, twice.W_dec, twice.threshold):
        columns = parameter.data.T if parameter is twice.W_enc else parameter.data
        columns[12:] = columns[:12]
    curve = curve_of(hooked_model, twice, report_of(list(range(12)), list(range(12, 24))), counts=[4, 12])
    stable, unstable = curve.at("stable", 12)[0], curve.at("unstable", 12)[0]
    assert stable.ev == pytest.approx(unstable.ev, rel=1e-5) and stable.ce == pytest.approx(unstable.ce)
    assert stable.share_of_activation == pytest.approx(0.5)
    for matched, row in zip(curve.at("frequency-matched", 4), curve.at("unstable", 4), strict=True):
        assert matched.mean_firing_rate == row.mean_firing_rate


def test_masking_curve_does_not_count_what_is_at_special_tokens(any_model: Any) -> None:
    hook = own_name(any_model, *RESIDUAL)
    hand = ByHand(any_model, hook, sae_at(hook))
    assert (hand.tokens[:, 1:] == 0).any()  # also between documents
    tame = curve_of(any_model, sae_at(hook), max_ce_tokens=0)
    everything = {"batch_size": N_CONTEXTS, "max_ce_tokens": 0}
    any_model.hook_dict[hook].add_hook(
        lambda x, hook: torch.where(hand.counted[..., None], x, 50 * x.abs() + 1)
    )
    wild = curve_of(any_model, sae_at(hook), **everything)
    assert (wild.n_tokens, wild.n_predictions) == (hand.counted.sum(), 0)
    for row, same in zip(wild.rows, tame.rows, strict=True):
        assert row.ev == pytest.approx(same.ev, rel=1e-5)
        assert (row.mean_firing_rate, row.ce) == (same.mean_firing_rate, None)
        assert row.share_of_activation == pytest.approx(same.share_of_activation)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_masking_curve_does_not_depend_on_the_batches(hooked_model, batch_size: int) -> None:
    expected = curve_of(hooked_model, sae_at(RESIDUAL[0]))
    curve = curve_of(hooked_model, sae_at(RESIDUAL[0]), batch_size=batch_size)
    for row, same in zip(curve.rows, expected.rows, strict=True):
        assert key_of(row) == key_of(same)
        assert (row.ev, row.ce) == pytest.approx((same.ev, same.ce), rel=1e-5)


def test_masking_curve_takes_a_training_sae_in_its_inference_form(hooked_model) -> None:
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_MODEL, d_sae=24, k=3))
    sae.topk_threshold.fill_(0.001)
    sae.cfg.metadata.hook_name = RESIDUAL[0]
    before = copy.deepcopy(sae.state_dict())
    assert curve_of(hooked_model, sae).rows == curve_of(hooked_model, as_inference(sae)).rows
    assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())


def test_masking_curve_with_autocast_is_the_model_in_bfloat16(any_model: Any) -> None:
    sae = sae_at(own_name(any_model, *RESIDUAL))
    curve = curve_of(any_model, sae, autocast=True, max_tokens=4 * CONTEXT, max_ce_tokens=4 * CONTEXT)
    row = evaluate(
        any_model, {"a": sae}, {"code": TEXTS["code"]}, autocast=True, max_tokens=4 * CONTEXT, seed=SEED
    )
    plain = curve_of(any_model, sae, max_tokens=4 * CONTEXT, max_ce_tokens=4 * CONTEXT)
    assert curve.ce == pytest.approx(row.at("a", "code").ce, rel=1e-6) and curve.ce != plain.ce
    assert curve.ce_with == pytest.approx(row.at("a", "code").ce_with, rel=1e-3)
    assert curve.provenance["autocast"] is True

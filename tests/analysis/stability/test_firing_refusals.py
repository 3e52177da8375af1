"""What is refused of models, SAEs, activations, and of the rates and floors that users give."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import SAE

from sae_lens_ext.analysis.stability.firing import (
    MIN_FIRINGS,
    FiringRates,
    firing_floor,
    firing_rates_on,
    rates_of,
)
from tests.analysis.domains import HEADS, RESIDUAL, sae_at
from tests.analysis.stability.test_firing import measure, pair_at


def test_measure_firing_rates_needs_a_hook_that_the_model_has(hooked_model) -> None:
    saes = pair_at(RESIDUAL[0])
    for sae in saes.values():
        sae.cfg.metadata.hook_name = None
    with pytest.raises(
        ValueError,
        match=r"SAEs that name no hook in their metadata. Set sae.cfg.metadata.hook_name to where they read\.",
    ):
        measure(hooked_model, saes)
    saes["b"].cfg.metadata.hook_name = RESIDUAL[0]  # one that says it is enough
    assert measure(hooked_model, saes).provenance["hook_name"] == RESIDUAL[0]
    with pytest.raises(ValueError, match=r"has no hook 'blocks.7.hook_resid_post'"):
        measure(hooked_model, pair_at("blocks.7.hook_resid_post"))


def test_measure_firing_rates_needs_a_model_by_itself_and_texts_with_words(hooked_model) -> None:
    saes = pair_at(RESIDUAL[0])
    with pytest.raises(ValueError, match=r"is one string. Give a sequence of documents, such as \['w1 w2'\]"):
        measure(hooked_model, saes, "w1 w2")
    with pytest.raises(ValueError, match="is too short"):
        measure(hooked_model, saes, ["w1 w2"])
    with pytest.raises(ValueError, match="nothing but special tokens, which do not count"):
        measure(hooked_model, saes, ["<|endoftext|> " * 40])
    hooked_model.add_sae(saes["a"])
    with pytest.raises(ValueError, match=r"has SAEs attached at .* Call model.reset_saes\(\) first"):
        measure(hooked_model, saes)


@pytest.mark.parametrize("name", ["context_size", "max_tokens", "batch_size"])
def test_measure_firing_rates_needs_positive_numbers(hooked_model, name: str) -> None:
    with pytest.raises(ValueError, match=rf"measure_firing_rates.{name} = 0 is out of range"):
        measure(hooked_model, pair_at(RESIDUAL[0]), **{name: 0})
    with pytest.raises(
        ValueError, match=r"firing_rates_on.batch_size_tokens must be a whole number, but 2.0"
    ):
        firing_rates_on(pair_at(RESIDUAL[0]), torch.randn(5, 16), batch_size_tokens=2.0)  # pyright: ignore[reportArgumentType]


def test_measure_firing_rates_refuses_saes_of_another_width_or_hook(hooked_model) -> None:
    with pytest.raises(
        ValueError,
        match=r"The activations have width 16, but the SAE 'a' has d_in = 8. It belongs to another",
    ):
        measure(hooked_model, pair_at(RESIDUAL[0], d_in=8))
    with pytest.raises(ValueError, match=r"measure_firing_rates was given SAEs of different hooks"):
        measure(hooked_model, {"a": sae_at(RESIDUAL[0]), "b": sae_at(HEADS[0])})
    with pytest.raises(ValueError, match=r"measure_firing_rates was given 1 SAE. Give two or more"):
        measure(hooked_model, [sae_at(RESIDUAL[0])])
    with pytest.raises(
        ValueError, match=r"firing_rates_on was given SAEs of different d_in: 16 \('a'\) and 8"
    ):
        firing_rates_on({"a": sae_at(RESIDUAL[0]), "b": sae_at(RESIDUAL[0], d_in=8)}, torch.randn(5, 16))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_firing_rates_on_refuses_activations_that_are_no_numbers(bad: float) -> None:
    saes, x = pair_at(RESIDUAL[0]), torch.randn(10, 16)
    x[7, 3] = bad
    with pytest.raises(
        ValueError, match="There is NaN or infinity in the activations, so that nothing can be"
    ):
        firing_rates_on(saes, x)


def test_firing_rates_on_refuses_negative_infinity_that_no_latent_shows() -> None:
    saes, x = pair_at(RESIDUAL[0]), torch.randn(10, 16)
    for sae in saes.values():
        sae.W_enc.data.abs_()
    x[7, 3] = -math.inf
    assert torch.isfinite((saes["a"].encode(x)[7] > 0).float()).all()
    with pytest.raises(ValueError, match="NaN or infinity in the activations"):
        firing_rates_on(saes, x)


def test_firing_rates_on_refuses_latents_that_are_no_numbers() -> None:
    saes = pair_at(RESIDUAL[0])
    saes["b"].W_enc.data[0, 0] = math.nan
    with pytest.raises(
        ValueError, match=r"NaN or infinity in the latents of the SAE 'b' on them.*float16 overflows where"
    ):
        firing_rates_on(saes, torch.randn(10, 16))


@pytest.mark.parametrize("shape", [(16,), (2, 5, 16), (0, 16)])
def test_firing_rates_on_needs_a_row_for_each_token(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as info:
        firing_rates_on(pair_at(RESIDUAL[0]), torch.zeros(shape))
    assert (
        str(info.value)
        == f"firing_rates_on was given activations of the shape {shape}. Give [n, d_in], a row for each token."
    )


@pytest.mark.parametrize("mode", ["expected_average_only_in", "covariance_whitening"])
def test_firing_rates_refuse_a_normalisation_that_was_not_folded(hooked_model, mode: Any) -> None:
    saes = pair_at(RESIDUAL[0], normalize_activations=mode)
    with pytest.raises(ValueError, match=rf"measure_firing_rates was given the SAE 'a' with .* = '{mode}'"):
        measure(hooked_model, saes)
    with pytest.raises(ValueError, match=r"firing_rates_on was .* which was never folded into its weights"):
        firing_rates_on(saes, torch.randn(5, 16))


# Rates that users give


SAES: Mapping[str, SAE[Any]] = pair_at(RESIDUAL[0])
GOOD = torch.linspace(0, 1, 24)


def test_rates_of_takes_them_in_a_row_by_name_or_measured() -> None:
    others = GOOD.flip(0)
    measured = FiringRates(("b", "more", "a"), (others, GOOD[:3], GOOD), 1000)
    for given_rates in ([GOOD, others], {"b": others, "a": GOOD}, measured, torch.stack([GOOD, others])):
        found = rates_of(given_rates, SAES)
        assert found is not None and torch.equal(found[0], GOOD) and torch.equal(found[1], others)
    assert rates_of(None, SAES) is None
    found = rates_of([GOOD.double().requires_grad_(), others], SAES)
    assert found is not None and found[0].dtype == torch.float32 and not found[0].requires_grad


def test_rates_of_needs_rates_of_all_saes() -> None:
    with pytest.raises(
        ValueError, match=r"firing_rates has 1 entries for 2 SAEs. Give one tensor \[d_sae\] for each, in the"
    ):
        rates_of([GOOD], SAES)
    with pytest.raises(
        ValueError,
        match=r"no entry for the SAE 'b'. It has 'a', 'c'. Give the rates of the same SAEs, by the",
    ):
        rates_of({"a": GOOD, "c": GOOD}, SAES)


def test_rates_of_refuses_rates_measured_on_another_sae_of_the_same_name() -> None:
    x = torch.randn(20, 16)
    three = [sae_at(RESIDUAL[0], seed=seed) for seed in range(3)]
    measured = firing_rates_on(three, x)
    assert rates_of(measured, dict(zip(measured.names, three, strict=True))) is not None
    half = dict(zip(measured.names, three[:2], strict=False))
    assert rates_of(measured, half) is not None  # the first two are the same
    shifted = dict(zip(measured.names, three[1:], strict=False))
    with pytest.raises(
        ValueError,
        match=r"rates of 'sae_0' were measured on an SAE with other weights than the 'sae_0' given here. SAEs in a list",
    ):
        rates_of(measured, shifted)


@pytest.mark.parametrize("rates", [GOOD[:-1], GOOD[None], torch.zeros(0)])
def test_rates_of_needs_one_for_each_latent(rates: torch.Tensor) -> None:
    with pytest.raises(ValueError) as info:
        rates_of([GOOD, rates], SAES)
    assert (
        str(info.value)
        == f"The firing rates of the SAE 'b' have the shape {tuple(rates.shape)}. Give [24], one for each latent."
    )


@pytest.mark.parametrize(
    ("rates", "span"),
    [
        (torch.log10(GOOD + 1e-10), "go from -10 to 0"),
        (GOOD * 2, "go from 0 to 2"),
        (torch.where(GOOD > 0.5, math.nan, GOOD), "go from nan to nan"),
    ],
)
def test_rates_of_needs_shares_of_tokens(rates: torch.Tensor, span: str) -> None:
    with pytest.raises(ValueError, match="'b' go .* sparsity.safetensors holds their logarithms") as info:
        rates_of([GOOD, rates], SAES)
    assert span in str(info.value)


# The floor


def test_firing_floor_is_what_is_given_or_a_hundred_firings_or_none() -> None:
    measured = FiringRates(("a",), (GOOD,), 50_000)
    assert firing_floor(None, None) == firing_floor(None, [GOOD]) == 0
    assert firing_floor(None, measured) == MIN_FIRINGS / 50_000 == 0.002
    assert firing_floor(None, FiringRates(("a",), (GOOD,), 60)) == 1
    assert firing_floor(0.1, measured) == firing_floor(0.1, [GOOD]) == 0.1
    assert firing_floor(0, measured) == 0 and firing_floor(1, measured) == 1


@given(n_tokens=st.integers(MIN_FIRINGS, 10_000_000))
def test_firing_floor_lets_a_latent_pass_that_fired_as_often_as_that(n_tokens: int) -> None:
    rates = (torch.tensor([MIN_FIRINGS - 1, MIN_FIRINGS]).double() / n_tokens).float()
    floor = firing_floor(None, FiringRates(("a",), (rates,), n_tokens))
    assert (rates >= floor).tolist() == [False, True]


@pytest.mark.parametrize("value", [-1e-9, 1.5, math.nan, math.inf, True])
def test_firing_floor_is_a_share_of_tokens(value: Any) -> None:
    with pytest.raises(ValueError) as info:
        firing_floor(value, [GOOD])
    assert (
        str(info.value)
        == f"min_firing_rate = {value!r} is out of range. Give a share of tokens, 0 to 1, such as 1e-4."
    )


def test_firing_floor_needs_firing_rates() -> None:
    with pytest.raises(
        ValueError,
        match=r"min_firing_rate = 0.1 was given without firing rates, .* from measure_firing_rates\.",
    ):
        firing_floor(0.1, None)

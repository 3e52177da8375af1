"""What `pool_features` refuses, and what it says."""

import math
from typing import Any

import pytest
import torch
from sae_lens import GatedSAE, GatedSAEConfig

from sae_lens_ext import KronSAE, KronSAEConfig
from sae_lens_ext.analysis.stability import firing_rates_on, pool_features
from tests.analysis.stability.labelled import HOOK, random_rows
from tests.analysis.stability.pooling.pools import D_IN, K, overlapping, sae_of, two_pools


@pytest.mark.parametrize(
    ("d_sae", "text"), [(0, "= 0 is out of range"), (True, "whole number, but True"), (4.0, "4.0")]
)
def test_pool_features_needs_a_size(d_sae: Any, text: str) -> None:
    pooled, references = overlapping()
    with pytest.raises(ValueError, match=rf"pool_features.d_sae .*{text}"):
        pool_features(pooled, d_sae, references=references)


def test_pool_features_needs_at_least_k_latents() -> None:
    pooled, references = overlapping()
    with pytest.raises(
        ValueError,
        match=r"asked for d_sae = 2, which is less than the k = 3 latents that fire at once. Give at",
    ):
        pool_features(pooled, 2, references=references)
    assert pool_features(pooled, 3, references=references)(torch.randn(4, D_IN)).shape == (4, D_IN)


def test_pool_features_with_too_few_features_says_how_many_there_are() -> None:
    pooled, references = overlapping()
    with pytest.raises(
        ValueError,
        match=r"asked for d_sae = 7, but the 8 latents that may be pooled hold 6 distinct features \(cosines below 0.7\)",
    ):
        pool_features(pooled, 7, references=references)
    assert pool_features(pooled, 7, references=references, threshold=0.85).cfg.d_sae == 7


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, math.nan, True])
def test_pool_features_needs_a_cosine_as_threshold(threshold: Any) -> None:
    pooled, references = overlapping()
    with pytest.raises(ValueError) as info:
        pool_features(pooled, 4, references=references, threshold=threshold)
    assert str(info.value) == (
        f"pool_features was given threshold = {threshold!r}. Give a cosine above 0 and up to 1, such as 0.7."
    )


def test_pool_features_needs_an_order_it_knows_and_what_that_goes_by() -> None:
    pooled, references = overlapping()
    with pytest.raises(
        ValueError, match=r"order = 'size'. Give one of 'reappearance', 'frequency', 'random'\."
    ):
        pool_features(pooled, 4, order="size")  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ValueError,
        match=r'no references for order = "reappearance". Give two or more SAEs that are not pooled',
    ):
        pool_features(pooled, 4)
    with pytest.raises(ValueError, match=r"pool_features, for references, was given 1 SAE. Give two or more"):
        pool_features(pooled, 4, references=[references["r"]])
    with pytest.raises(
        ValueError, match=r'no firing_rates for order = "frequency". Give those of the pooled SAEs, from'
    ):
        pool_features(pooled, 4, order="frequency")
    with pytest.raises(ValueError, match=r"min_firing_rate = 0.1 was given without firing rates"):
        pool_features(pooled, 4, references=references, min_firing_rate=0.1)


def test_pool_features_refuses_firing_rates_of_other_saes() -> None:
    pooled, references = overlapping()
    everyone: list[Any] = [*references.values(), *pooled.values()]
    for sae in everyone:
        sae.cfg.metadata.initialisation_seed = None
    measured = firing_rates_on(everyone, torch.randn(500, D_IN))
    with pytest.raises(
        ValueError, match=r"measured on an SAE with other weights than the 'sae_0' given here"
    ):
        pool_features(list(pooled.values()), 4, order="frequency", firing_rates=measured)
    with pytest.raises(ValueError, match=r"firing_rates has no entry for the SAE 'a'"):
        pool_features(pooled, 4, order="frequency", firing_rates=measured)


def test_pool_features_needs_two_saes_and_none_of_them_twice() -> None:
    pooled, references = overlapping()
    with pytest.raises(ValueError, match=r"pool_features was given 1 SAE. Give two or more"):
        pool_features({"a": pooled["a"]}, 3, references=references)
    with pytest.raises(
        ValueError, match=r"pool_features was given one SAE, .* Give two or more, in a list\."
    ):
        pool_features(pooled["a"], 3, references=references)
    with pytest.raises(
        ValueError, match=r"same SAE twice: the decoders of 'pooled a' and 'pooled b' are identical"
    ):
        pool_features({"a": pooled["a"], "b": pooled["a"]}, 3, references=references)
    with pytest.raises(ValueError, match=r"the decoders of 'pooled b' and 'reference s' are identical"):
        pool_features(pooled, 3, references={**references, "s": pooled["b"]})


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        ("topk", {"k": 4}, "different k: 3 ('a') and 4 ('b')"),
        ("standard", {}, "different architecture: 'topk' ('a') and 'standard' ('b')"),
        ("rescaled_topk", {}, "different rescale_acts_by_decoder_norm: False ('a') and True ('b')"),
        (
            "topk",
            {"apply_b_dec_to_input": False},
            "different apply_b_dec_to_input: True ('a') and False ('b')",
        ),
        (
            "topk",
            {"normalize_activations": "layer_norm"},
            "different normalize_activations: 'none' ('a') and 'layer_norm' ('b')",
        ),
    ],
)
def test_pool_features_refuses_saes_of_different_settings(
    kind: str, fields: dict[str, Any], text: str
) -> None:
    pooled, references = overlapping()
    other = sae_of(random_rows(6, D_IN, seed=9), kind, **fields)
    with pytest.raises(ValueError) as info:
        pool_features({**pooled, "b": other}, 4, references=references)
    assert (
        str(info.value)
        == f"pool_features was given SAEs of {text}. Give SAEs that differ in their seed only."
    )


def test_pool_features_refuses_saes_of_different_sites_references_too() -> None:
    pooled, references = overlapping()
    references["s"].cfg.metadata.hook_name = "blocks.2.hook_resid_post"
    with pytest.raises(
        ValueError, match=r"different hooks: .* \('pooled a'\) and 'blocks.2.* \('reference s'\)"
    ):
        pool_features(pooled, 4, references=references)
    references["s"].cfg.metadata.hook_name = HOOK
    pooled["b"].cfg.metadata.model_name = "pythia"
    with pytest.raises(
        ValueError, match=r"different models: 'gpt2' \('pooled a'\) and 'pythia' \('pooled b'\)"
    ):
        pool_features(pooled, 4, references=references)
    narrow = [sae_of(random_rows(4, 8, seed=seed)) for seed in (5, 6)]
    with pytest.raises(ValueError, match=r"different d_in: 16 \('pooled a'\) and 8"):
        pool_features({"a": pooled["a"], "c": sae_of(random_rows(4, D_IN, 7))}, 4, references=narrow)


def test_pool_features_refuses_architectures_it_does_not_take_apart() -> None:
    kron = [KronSAE(KronSAEConfig(d_in=D_IN, d_sae=16, k=K, base_dim=2, extension_dim=4)) for _ in "ab"]
    gated = [GatedSAE(GatedSAEConfig(d_in=D_IN, d_sae=16)) for _ in "ab"]
    for name, saes in (("kron", kron), ("gated", gated)):
        with pytest.raises(
            ValueError,
            match=rf"is of the architecture '{name}', which pool_features does not take apart: it pools SAEs whose "
            "latents each have one encoder vector and one bias, of the architectures topk, jumprelu, standard",
        ):
            pool_features(saes, 8, order="random")


@pytest.mark.parametrize("mode", ["expected_average_only_in", "covariance_whitening"])
def test_pool_features_refuses_a_normalisation_that_was_not_folded(mode: Any) -> None:
    saes, references = two_pools("topk", normalize_activations=mode)
    with pytest.raises(
        ValueError,
        match=rf"pool_features was given the SAE 'pooled sae_0' .*'{mode}', which was never folded",
    ):
        pool_features(dict(zip(("sae_0", "x", "y"), saes, strict=True)), 6, references=references)


def test_pool_features_refuses_weights_that_are_no_numbers() -> None:
    pooled, references = overlapping()
    references["r"].W_dec.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"The decoder of the SAE 'reference r' holds NaN or infinity"):
        pool_features(pooled, 4, references=references)

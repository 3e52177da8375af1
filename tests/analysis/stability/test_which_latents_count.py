"""What `feature_stability` says of few SAEs, and which latents it leaves out."""

from collections.abc import Mapping, Sequence

import pytest
import torch

from sae_lens_ext.analysis.stability import FiringRates
from tests.analysis.stability.labelled import random_rows, sae_of
from tests.analysis.stability.test_feature_stability import E, stability


@pytest.mark.parametrize(
    ("n_saes", "note"),
    [
        (2, "coarse: with 1 other SAE, p̂ can only be 0, 1"),
        (3, "coarse: with 2 other SAEs, p̂ can only be 0, 1/2, 1"),
        (5, "coarse: with 4 other SAEs, p̂ can only be 0, 1/4, 2/4, 3/4, 1"),
        (6, "stable is: in all 5 others, unstable: in none"),
        (20, "stable is: in all 19 others, unstable: in none"),
        (21, None),
    ],
)
def test_feature_stability_of_few_saes_says_that_it_is_coarse(n_saes: int, note: str | None) -> None:
    saes = [sae_of(random_rows(5, 8, seed)) for seed in range(n_saes)]
    report = stability(saes, firing_rates=[torch.full((5,), 0.1)] * n_saes)
    assert report.notes == (() if note is None else (note,))
    assert ("coarse" in repr(report)) == (n_saes < 6)
    assert repr(report).splitlines()[-1].endswith(note or "blocks.1.hook_resid_post")


def test_feature_stability_without_firing_rates_says_so() -> None:
    report = stability([sae_of(E), sae_of(-E)])
    assert report.firing_rates is None
    assert (
        report.notes[1] == "no firing rates were given, so that dead and rare latents count and look unstable"
    )
    assert "no firing rates were given" in repr(report)


def test_feature_stability_leaves_rows_of_zeros_out() -> None:
    rows = torch.stack([E[0], torch.zeros(8), E[1], -E[2]])
    report = stability([sae_of(rows), sae_of(torch.stack([E[1], E[0], E[2]]))])
    assert report.included[0].tolist() == [True, False, True, True]
    assert report.labels(0).tolist() == ["stable", "excluded", "stable", "unstable"]
    assert report.reappearance[0].tolist() == [1, 0, 1, 0]
    assert report.shares("excluded") == [0.25, 0.0]
    assert report.pairs[0].pw_mcc == pytest.approx((1 + 1 - 1) / 3)  # all three have to be matched
    assert report.match_rate == pytest.approx((2 / 3 + 2 / 3) / 2)


RATES = [torch.tensor([0.5, 0.01, 0.009, 0.0]), torch.tensor([0.01, 0.5, 0.5, 0.5])]
PAIR = {"a": E[:4], "b": E[:4].roll(1, dims=0)}


@pytest.mark.parametrize(
    "rates",
    [
        RATES,
        {"b": RATES[1], "a": RATES[0]},
        FiringRates(("b", "a"), (RATES[1], RATES[0]), n_tokens=10_000, provenance={"n_tokens": 10_000}),
    ],
    ids=["row", "mapping", "FiringRates"],
)
def test_feature_stability_leaves_out_what_fires_below_the_floor(
    rates: Sequence[torch.Tensor] | Mapping[str, torch.Tensor] | FiringRates,
) -> None:
    saes = {name: sae_of(rows) for name, rows in PAIR.items()}
    report = stability(saes, firing_rates=rates, min_firing_rate=0.01)
    assert [kept.tolist() for kept in report.included] == [[True, True, False, False], [True] * 4]
    assert report.labels(0).tolist() == ["stable", "stable", "excluded", "excluded"]
    assert report.shares("excluded") == [0.5, 0] and report.shares("stable") == [1, 1]
    assert report.min_firing_rate == 0.01 and report.firing_rates is not None
    assert all(torch.equal(*both) for both in zip(report.firing_rates, RATES, strict=True))
    (pair,) = report.pairs
    assert (pair.pw_mcc, pair.matched, pair.mmcs_first, pair.mmcs_second) == (1, 1, 1, 1)
    assert report.null_cosines[0].shape == (1, 2)  # the latents that count
    given = report.provenance["firing_rates"]
    assert given == ({"n_tokens": 10_000} if isinstance(rates, FiringRates) else None)


def test_feature_stability_floor_is_100_firings_of_those_measured() -> None:
    saes = {name: sae_of(rows) for name, rows in PAIR.items()}
    measured = FiringRates(("a", "b"), (RATES[0], RATES[1]), n_tokens=10_000)
    report = stability(
        saes, firing_rates=measured
    )  # 100 of 10,000 are 0.01: the rate exactly at the floor counts
    assert report.min_firing_rate == 0.01
    assert report.included[0].tolist() == [True, True, False, False]
    few = FiringRates(("a", "b"), (torch.tensor([1.0, 0.9, 0.0, 1.0]), torch.ones(4)), n_tokens=20)
    assert stability(saes, firing_rates=few).included[0].tolist() == [True, False, False, True]  # at most all


def test_feature_stability_floor_of_rates_without_tokens_is_any_firing() -> None:
    report = stability({name: sae_of(rows) for name, rows in PAIR.items()}, firing_rates=RATES)
    assert report.min_firing_rate == 0
    assert report.included[0].tolist() == [True, True, True, False]


def test_feature_stability_says_where_it_comes_from() -> None:
    saes = [sae_of(random_rows(5, 8, seed)) for seed in range(2)]
    for i, sae in enumerate(saes):
        sae.cfg.metadata.neuronpedia_id = f"gpt2-small/{i}-test"
        sae.cfg.metadata.initialisation_seed = 40 + i
        sae.cfg.metadata.data_order_seed = 7
    saes[1].cfg.metadata.dataset_path = "texts"
    report = stability(saes, seed=3)
    told = report.provenance
    assert report.names == ("standard_seed_40", "standard_seed_41")
    assert report.links == ("gpt2-small/0-test", "gpt2-small/1-test")
    assert told["model_name"] == "gpt2" and told["hook_name"] == "blocks.1.hook_resid_post"
    assert told["dataset_path"] == "texts" and told["seed"] == 3
    assert told["initialisation_seeds"] == [40, 41] and told["data_order_seeds"] == [7, 7]
    assert list(told["sae_fingerprints"]) == list(report.names)
    assert told["architectures"] == ["standard"] and told["firing_rates"] is None
    assert {"torch_version", "sae_lens_version", "transformer_lens_version", "sae_lens_ext_version"} <= set(
        told
    )


def test_SAEs_that_began_with_the_same_weights_are_noted() -> None:
    saes = [sae_of(random_rows(5, 8, seed)) for seed in range(3)]
    for sae, seed in zip(saes, (0, 1, 0), strict=True):
        sae.cfg.metadata.initialisation_seed = seed
    note = "some of these SAEs began with the same weights, which makes them look stable"
    assert note in stability(saes).notes
    saes[2].cfg.metadata.initialisation_seed = 2
    assert note not in stability(saes).notes


def test_SAEs_of_one_start_are_named_by_their_data_order() -> None:
    saes = [sae_of(random_rows(5, 8, seed)) for seed in range(2)]
    for i, sae in enumerate(saes):
        sae.cfg.metadata.initialisation_seed, sae.cfg.metadata.data_order_seed = 0, 7 + i
    assert stability(saes).names == ("standard_seed_7", "standard_seed_8")


def test_latents_that_fire_too_rarely_are_noted() -> None:
    saes = [sae_of(random_rows(10, 8, seed)) for seed in range(2)]
    rates = [torch.tensor([0.0005, 0.0] + [0.1] * 8)] * 2
    report = stability(saes, firing_rates=rates, min_firing_rate=0.001)
    assert "10% of the latents fire, but on fewer than 0.10% of the tokens, and do not count" in report.notes

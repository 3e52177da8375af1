import numpy as np
import pytest
import torch

from sae_lens_ext.analysis.flow import FeatureOrigins, FlowThresholds, feature_origins
from sae_lens_ext.analysis.flow.null import made_up_features, null_cosines
from sae_lens_ext.analysis.stability.rotations import random_rotation
from tests.analysis.flow.dictionaries import ATT, MLP, RES, axes, sae_of


def _planted(d: int = 64) -> tuple:
    """Six features: translated, processed with the MLP, with attention, newborn of the MLP, of attention, unexplained."""
    torch.manual_seed(0)
    basis = random_rotation(d, torch.Generator().manual_seed(1))
    half = 0.5**0.5
    targets = torch.stack(
        [
            basis[0],
            half * (basis[1] + basis[2]),
            half * (basis[3] + basis[4]),
            basis[5],
            basis[6],
            basis[7],
        ]
    )
    residual = torch.stack([basis[0], basis[1], basis[3], *basis[20:40]])
    mlp = torch.stack([basis[2], basis[5], *basis[40:50]])
    attention = torch.stack([basis[4], basis[6], *basis[50:60]])
    return (
        sae_of(targets, RES.format(1)),
        {
            "residual": sae_of(residual, RES.format(0)),
            "mlp": sae_of(mlp, MLP.format(1)),
            "attention": sae_of(attention, ATT.format(1)),
        },
    )


PLANTED = ["translated", "processed", "processed", "newborn", "newborn", "unexplained"]


@pytest.mark.parametrize("thresholds", ["paper", FlowThresholds(residual=0.6, mlp=0.6, attention=0.6)])
def test_feature_origins_finds_the_planted_ones(thresholds) -> None:
    target, before = _planted()
    origins = feature_origins(target, **before, thresholds=thresholds)
    assert origins.labels.tolist() == PLANTED
    assert origins.indices["residual"][:3].tolist() == [0, 1, 2]
    assert origins.scores["mlp"][1].item() == pytest.approx(0.5**0.5, abs=1e-5)


def test_feature_origins_against_chance_finds_the_planted_ones_in_a_real_sized_dictionary() -> None:
    generator = torch.Generator().manual_seed(0)
    d, n = 128, 400
    residual, mlp = torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)
    fresh = torch.randn(n, d, generator=generator)
    target = torch.cat([residual[:100], mlp[:100], fresh[:200]])
    origins = feature_origins(
        sae_of(target, RES.format(1)),
        residual=sae_of(residual, RES.format(0)),
        mlp=sae_of(mlp, MLP.format(1)),
    )
    labels = origins.labels
    assert (labels[:100] == "translated").mean() > 0.95
    assert (labels[100:200] == "newborn").mean() > 0.95
    assert (labels[200:] == "unexplained").mean() > 0.93  # one in a hundred passes at each of the two sites


def test_null_quantiles_of_features_that_are_chance_are_even() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.nn.functional.normalize(torch.randn(1000, 40, generator=generator), dim=1) for _ in range(2)
    )
    for model in ("random", "shuffled"):
        quantiles = null_cosines(made_up_features(a, model), b).quantile_of((a @ b.T).max(dim=1).values)
        assert quantiles.mean().item() == pytest.approx(0.5, abs=0.04)
        assert (quantiles > 0.9).float().mean().item() == pytest.approx(0.1, abs=0.035)


def test_the_shuffled_null_keeps_that_all_features_share_a_direction_and_the_random_one_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = 3 * torch.randn(40, generator=generator)
    a, b = (
        torch.nn.functional.normalize(shared + torch.randn(300, 40, generator=generator), dim=1)
        for _ in range(2)
    )
    best = (a @ b.T).max(dim=1).values
    assert null_cosines(made_up_features(a, "random"), b).quantile_of(best).min().item() > 0.99
    assert null_cosines(made_up_features(a, "shuffled"), b).quantile_of(best).mean().item() == pytest.approx(
        0.5, abs=0.1
    )


def test_made_up_features_are_the_same_for_the_same_seed_and_refuse_bad_input() -> None:
    rows = torch.eye(8)
    first, second = (made_up_features(rows, "shuffled", n=16, seed=3) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(16))
    with pytest.raises(ValueError, match="no null model 'other'"):
        made_up_features(rows, "other")  # type: ignore[arg-type]
    for n in (0, -1, True):
        with pytest.raises(ValueError, match="n_null"):
            made_up_features(rows, "shuffled", n=n)


def test_made_up_features_are_not_those_that_torch_draws_from_the_same_seed() -> None:
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
    assert (made_up_features(rows, "random", n=64, seed=0) @ rows.T).diagonal().abs().max() < 0.95


def test_orthonormal_dictionaries_on_the_axes_are_judged_as_in_any_other_basis() -> None:
    turn = random_rotation(32, torch.Generator().manual_seed(0))
    for rows in (torch.eye(32), turn):
        origins = feature_origins(sae_of(rows, RES.format(1)), residual=sae_of(rows, RES.format(0)))
        assert set(origins.labels) == {"translated"}


def test_features_with_random_signs_pass_about_as_often_as_the_null_says() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(
        48, 48, generator=generator
    )  # features of unequal spread, alike in both dictionaries
    a, b = (
        torch.nn.functional.normalize(torch.randn(2000, 48, generator=generator) @ mixing, dim=1)
        for _ in range(2)
    )
    quantiles = null_cosines(made_up_features(a, "shuffled"), b).quantile_of((a @ b.T).max(dim=1).values)
    assert (quantiles >= 0.99).float().mean().item() == pytest.approx(0.01, abs=0.012)


def test_feature_origins_with_one_site_alone() -> None:
    target, before = _planted()
    origins = feature_origins(target, mlp=before["mlp"], thresholds="paper")
    assert set(origins.scores) == {"mlp"}
    assert set(origins.labels) == {"newborn", "unexplained"}
    assert origins.missing == (
        "No SAE of the stream one layer before: features that were there count as newborn or unexplained.",
        "No SAE of the attention output: features that come from there count as translated or unexplained.",
    )


def test_feature_origins_are_the_same_in_any_rotated_stream() -> None:
    target, before = _planted()
    turn = random_rotation(64, torch.Generator().manual_seed(5))
    saes = {"target": target, **before}
    turned = {name: sae_of(sae.W_dec.data @ turn, sae.cfg.metadata.hook_name) for name, sae in saes.items()}
    plain = feature_origins(target, **before, thresholds="paper")
    other = feature_origins(turned.pop("target"), **turned, thresholds="paper")
    assert np.array_equal(plain.labels, other.labels)
    for kind, scores in plain.scores.items():
        torch.testing.assert_close(scores, other.scores[kind], atol=1e-5, rtol=0, equal_nan=True)


def test_FeatureOrigins_saves_loads_shows_and_draws_itself(tmp_path) -> None:
    target, before = _planted()
    origins = feature_origins(target, **before, thresholds="paper")
    origins.save(tmp_path / "origins.json")
    again = FeatureOrigins.load(tmp_path / "origins.json")
    assert again.to_frame().equals(origins.to_frame())
    assert again.thresholds == origins.thresholds
    assert (
        repr(origins).splitlines()[1].strip() == "17% translated, 33% processed, 33% newborn, 17% unexplained"
    )
    summary = origins.summary().set_index("origin")
    assert summary.loc["processed", "features"] == 2
    assert summary["share"].sum() == pytest.approx(1)
    assert [trace.name for trace in origins.plot().data] == [
        "translated (1)",
        "processed (2)",
        "newborn (2)",
        "unexplained (1)",
    ]
    assert "<table" in origins._repr_html_()
    (tmp_path / "origins.json").write_text("{")
    with pytest.raises(ValueError, match="is not a FeatureOrigins"):
        FeatureOrigins.load(tmp_path / "origins.json")


def test_feature_origins_refusals() -> None:
    target, before = _planted()
    with pytest.raises(ValueError, match="given no predecessor"):
        feature_origins(target)
    with pytest.raises(ValueError, match="different widths: 64 .* and 6"):
        feature_origins(target, mlp=sae_of(axes(0), MLP.format(1)))
    with pytest.raises(ValueError, match="different models: 'made-up' .* and 'other'"):
        feature_origins(target, mlp=sae_of(torch.eye(64), MLP.format(1), model="other"))
    with pytest.raises(
        ValueError, match="given, for 'blocks.1.hook_mlp_out', an SAE of 'blocks.0.hook_resid_post'"
    ):
        feature_origins(target, mlp=before["residual"])
    with pytest.raises(ValueError, match="given, for 'blocks.1.hook_resid_pre', an SAE of 'blocks.5"):
        feature_origins(target, residual=sae_of(torch.eye(64), RES.format(5)))
    with pytest.raises(ValueError, match="Give an SAE of the residual stream"):
        feature_origins(before["mlp"], residual=before["residual"])
    with pytest.raises(ValueError, match="no residual SAE. Leave it out"):
        feature_origins(sae_of(torch.eye(64), RES.format(0)), residual=before["residual"])
    with pytest.raises(ValueError, match="Give model=, the language model"):
        feature_origins(target, attention=sae_of(torch.eye(64), "blocks.1.attn.hook_z"))
    with pytest.raises(ValueError, match='Give "null", "paper", None'):
        feature_origins(target, **before, thresholds="card")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="FlowThresholds was given mlp = 2"):
        FlowThresholds(mlp=2)

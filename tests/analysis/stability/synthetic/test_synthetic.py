"""The ground truth of feature stability: its geometry, how its features fire, its seeds."""

import itertools
import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.analysis.stability.rotations import random_rotation
from sae_lens_ext.analysis.stability.synthetic.model import LowRankFeatureModel

SMALL = {"d_in": 24, "n_independent": 10, "n_low_rank": 12, "rank": 3}


def of_group(model: LowRankFeatureModel, group: str) -> torch.Tensor:
    return model.features[torch.from_numpy(model.groups == group)]


def cosines_between(rows: torch.Tensor) -> torch.Tensor:
    """Cosines of all pairs of different unit rows."""
    return (rows @ rows.T)[~torch.eye(len(rows), dtype=torch.bool)]


def assert_geometry(model: LowRankFeatureModel) -> None:
    r, d = model.rank, model.d_in
    B, C = model.low_rank_basis, model.complement_basis
    assert B.shape == (r, d) and C.shape == (d - r, d)
    torch.testing.assert_close(torch.cat([B, C]) @ torch.cat([B, C]).T, torch.eye(d), atol=2e-6, rtol=0)
    assert model.features.shape == (model.n_features, d) == (model.n_independent + model.n_low_rank, d)
    torch.testing.assert_close(model.features.norm(dim=1), torch.ones(model.n_features), atol=1e-6, rtol=0)
    independent, low_rank = of_group(model, "independent"), of_group(model, "low_rank")
    assert torch.linalg.matrix_rank(low_rank, rtol=1e-4) == r
    torch.testing.assert_close(low_rank @ B.T @ B, low_rank, atol=2e-6, rtol=0)
    assert float((independent @ B.T).abs().max()) < 2e-6
    assert float((independent @ low_rank.T).abs().max()) < 2e-6


@pytest.mark.parametrize("numbers", [{}, SMALL, {**SMALL, "rank": 12}, {**SMALL, "rank": 1, "seed": 5}])
def test_LowRankFeatureModel_geometry(numbers: dict[str, int]) -> None:
    model = LowRankFeatureModel(**numbers)
    assert_geometry(model)
    assert float(cosines_between(of_group(model, "independent")).abs().max()) < 1e-3


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_LowRankFeatureModel_geometry_holds_for_any_sizes(data: st.DataObject) -> None:
    d_in = data.draw(st.integers(2, 20))
    rank = data.draw(st.integers(1, d_in - 1))
    model = LowRankFeatureModel(
        d_in=d_in,
        n_independent=data.draw(st.integers(1, 25)),
        n_low_rank=data.draw(st.integers(rank, 25)),
        rank=rank,
        seed=data.draw(st.integers(0, 2**63 - 1)),
    )
    assert_geometry(model)


def test_LowRankFeatureModel_groups_are_in_this_order() -> None:
    model = LowRankFeatureModel(d_in=8, n_independent=2, n_low_rank=3, rank=2)
    assert model.groups.tolist() == ["independent", "independent", "low_rank", "low_rank", "low_rank"]
    assert model.n_features == 5


def test_LowRankFeatureModel_of_full_rank_has_two_groups_of_one_kind() -> None:
    model = LowRankFeatureModel(d_in=24, n_independent=12, n_low_rank=12, rank=12)
    assert float(cosines_between(model.features).abs().max()) < 1e-3


def test_LowRankFeatureModel_low_rank_features_are_crowded_and_spread_evenly() -> None:
    low_rank = of_group(LowRankFeatureModel(), "low_rank")
    nearest = (low_rank @ low_rank.T).fill_diagonal_(-1).max(dim=1).values
    assert 0.5 < float(nearest.mean()) < 0.8
    # A tight frame: 64 vectors fill each of 8 dimensions alike, Σ fᵢ fᵢᵀ = (64 / 8) · projection
    spectrum = torch.linalg.eigvalsh(low_rank.T @ low_rank)
    torch.testing.assert_close(spectrum[-8:], torch.full((8,), 8.0), atol=1e-2, rtol=0)
    assert float(spectrum[:-8].abs().max()) < 1e-4


def test_LowRankFeatureModel_more_independent_features_than_dimensions_lie_as_far_apart_as_they_go() -> None:
    model = LowRankFeatureModel(d_in=24, n_independent=40, n_low_rank=4, rank=4)
    assert_geometry(model)
    # Welch: n vectors in d dimensions have a mean squared cosine of at least (n − d) / (d (n − 1))
    welch = (40 - 20) / (20 * 39)
    assert float(cosines_between(of_group(model, "independent")).square().mean()) == pytest.approx(
        welch, rel=1e-2
    )


@pytest.mark.parametrize("probability", [0.02, 0.1, 0.5])
def test_LowRankFeatureModel_all_features_fire_equally_often(probability: float) -> None:
    n = 20_000
    model = LowRankFeatureModel(**SMALL, firing_probability=probability)
    _, latents = model.sample_with_latents(n, seed=3)
    fires = (latents > 0).double()
    deviation = math.sqrt(probability * (1 - probability) / n)
    assert float((fires.mean(dim=0) - probability).abs().max()) < 4.5 * deviation
    for group in ("independent", "low_rank"):
        own = fires[:, torch.from_numpy(model.groups == group)]
        assert abs(float(own.mean()) - probability) < 4.5 * deviation / math.sqrt(own.shape[1])


def test_LowRankFeatureModel_latents_fire_independently_with_equal_strength() -> None:
    n = 20_000
    model = LowRankFeatureModel(**SMALL, firing_probability=0.3)
    _, latents = model.sample_with_latents(n, seed=4)
    correlations = torch.corrcoef((latents > 0).double().T).fill_diagonal_(0)
    assert float(correlations.abs().max()) < 5 / math.sqrt(n)
    assert float(latents.min()) == 0
    for column in latents.T:
        strengths = column[column > 0]
        assert abs(float(strengths.mean()) - 1) < 5 * 0.25 / math.sqrt(len(strengths))
        assert float(strengths.std()) == pytest.approx(0.25, rel=0.1)


def test_LowRankFeatureModel_of_probability_1_fires_always() -> None:
    _, latents = LowRankFeatureModel(**SMALL, firing_probability=1).sample_with_latents(100, seed=0)
    assert (latents > 0).all()


def test_LowRankFeatureModel_activations_are_what_the_latents_say() -> None:
    model = LowRankFeatureModel(**SMALL, firing_probability=0.3)
    x, latents = model.sample_with_latents(20, seed=1)
    assert x.shape == (20, 24) and latents.shape == (20, 22)
    features = model.features.tolist()
    for activation, strengths in zip(x.tolist(), latents.tolist(), strict=True):
        for j in range(24):
            by_hand = sum(z * feature[j] for z, feature in zip(strengths, features, strict=True))
            assert activation[j] == pytest.approx(by_hand, abs=1e-5)
    assert not x.requires_grad and not latents.requires_grad


def test_LowRankFeatureModel_noise_is_added_in_every_dimension() -> None:
    clean, noisy = LowRankFeatureModel(**SMALL), LowRankFeatureModel(**SMALL, noise=0.5)
    x, latents = noisy.sample_with_latents(4000, seed=1)
    same, same_latents = clean.sample_with_latents(4000, seed=1)
    assert torch.equal(latents, same_latents)  # noise is drawn after the latents
    noise = x - same
    torch.testing.assert_close(noise.std(dim=0), torch.full((24,), 0.5), atol=0.03, rtol=0)
    assert float(noise.mean(dim=0).abs().max()) < 5 * 0.5 / math.sqrt(4000)
    assert float(torch.corrcoef(noise.T).fill_diagonal_(0).abs().max()) < 5 / math.sqrt(4000)


def test_LowRankFeatureModel_sample_is_the_first_of_sample_with_latents() -> None:
    model = LowRankFeatureModel(**SMALL, noise=0.1)
    assert torch.equal(model.sample(50, 7), model.sample_with_latents(50, 7)[0])


def test_LowRankFeatureModel_is_decided_by_its_seed() -> None:
    one, same, other = (LowRankFeatureModel(**SMALL, seed=seed) for seed in (1, 1, 2))
    assert one == same != other and hash(one) == hash(same)
    assert torch.equal(one.features, same.features) and torch.equal(one.low_rank_basis, same.low_rank_basis)
    assert torch.equal(one.sample(9, 4), same.sample(9, 4))
    assert not torch.allclose(one.sample(9, 4), one.sample(9, 5))
    # Another seed is another subspace: of r random dimensions in d, r/d lies in it on average
    energy = (of_group(other, "low_rank") @ one.low_rank_basis.T).square().sum(dim=1)
    assert float(energy.mean()) < 0.5
    assert float((one.features @ other.features.T).abs().max()) < 0.99


def test_LowRankFeatureModel_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    model = LowRankFeatureModel(**SMALL, noise=0.1)
    features = model.features
    x = model.sample(10, 0)
    batches = model.batches(10, 0)
    first = next(batches)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)  # nor does it depend on it
    again = LowRankFeatureModel(**SMALL, noise=0.1)
    assert torch.equal(again.features, features) and torch.equal(again.sample(10, 0), x)
    assert torch.equal(next(again.batches(10, 0)), first)


def test_LowRankFeatureModel_batches_are_endless_all_different_and_the_same_again() -> None:
    model = LowRankFeatureModel(**SMALL)
    batches = list(itertools.islice(model.batches(16, seed=1), 30))
    assert all(batch.shape == (16, 24) for batch in batches)
    rows = torch.cat(batches)
    rows = rows[(rows != 0).any(dim=1)]  # where nothing fires, all are alike
    assert len(rows.unique(dim=0)) == len(rows)
    other = model.batches(16, seed=2)
    for batch, again in zip(batches, model.batches(16, seed=1), strict=False):
        assert torch.equal(batch, again)
        assert not torch.equal(batch, next(other))


def test_LowRankFeatureModel_is_made_without_gradients_just_the_same() -> None:
    expected = LowRankFeatureModel(**SMALL).features
    with torch.no_grad():
        assert torch.equal(LowRankFeatureModel(**SMALL).features, expected)
    with torch.inference_mode():
        model = LowRankFeatureModel(**SMALL)
        assert torch.equal(model.features, expected)
    weights = torch.ones(24, requires_grad=True)  # and what was made so can be trained with
    (model.features @ model.low_rank_basis.T @ model.low_rank_basis @ weights).sum().backward()
    assert weights.grad is not None


def test_LowRankFeatureModel_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        LowRankFeatureModel().rank = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_random_rotation_is_orthogonal_uniform_and_reproducible() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_rotation(3, generator) for _ in range(2000)])
    torch.testing.assert_close(
        drawn @ drawn.transpose(1, 2), torch.eye(3).expand(2000, 3, 3), atol=1e-5, rtol=0
    )
    # Haar: every entry has mean 0 and mean square 1/3, and reflections are as frequent as rotations
    assert float(drawn.mean(dim=0).abs().max()) < 5 / math.sqrt(3 * 2000)
    torch.testing.assert_close(drawn.square().mean(dim=0), torch.full((3, 3), 1 / 3), atol=0.04, rtol=0)
    assert abs(float(torch.linalg.det(drawn).mean())) < 5 / math.sqrt(2000)
    assert torch.equal(random_rotation(3, torch.Generator().manual_seed(0)), drawn[0])


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"d_in": 0}, r"LowRankFeatureModel\.d_in = 0 is out of range\. Give an int of at least 1\."),
        (
            {"n_independent": 2.5},
            r"LowRankFeatureModel\.n_independent must be a whole number, but 2\.5 was given",
        ),
        ({"n_low_rank": -1}, r"LowRankFeatureModel\.n_low_rank = -1 is out of range"),
        ({"rank": True}, r"LowRankFeatureModel\.rank must be a whole number, but True was given"),
        (
            {"rank": 96, "n_low_rank": 200},
            r"LowRankFeatureModel\.rank = 96 leaves no dimension of d_in = 96 to the independent features, which are orthogonal to the low-rank "
            r"ones\. Give a rank of at most 95, better d_in − n_independent\.",
        ),
        (
            {"n_low_rank": 7},
            r"LowRankFeatureModel\.n_low_rank = 7 features cannot span rank = 8 dimensions\. Give at least as many features as dimensions; many",
        ),
        (
            {"firing_probability": 0},
            r"LowRankFeatureModel\.firing_probability = 0 is no probability to fire with\. Give a number above 0 and up to 1, such as 0\.1\.",
        ),
        ({"firing_probability": 1.01}, r"firing_probability = 1\.01 is no probability"),
        ({"firing_probability": math.nan}, r"firing_probability = nan is no probability"),
        (
            {"noise": -0.1},
            r"LowRankFeatureModel\.noise = -0\.1 is no standard deviation\. Give 0 for none, or a positive number\.",
        ),
        ({"noise": math.inf}, r"noise = inf is no standard deviation"),
        ({"noise": math.nan}, r"noise = nan is no standard deviation"),
        (
            {"seed": -1},
            r"LowRankFeatureModel was given seed = -1\. Give a whole number from 0 to 2\*\*63 - 1, as an int\.",
        ),
        ({"seed": 0.0}, r"LowRankFeatureModel was given seed = 0\.0"),
        ({"seed": 2**63}, r"LowRankFeatureModel was given seed = 9223372036854775808"),
    ],
)
def test_LowRankFeatureModel_refuses(numbers: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        LowRankFeatureModel(**numbers)


def test_LowRankFeatureModel_sampling_refuses() -> None:
    model = LowRankFeatureModel(**SMALL)
    for draw in (model.sample, model.sample_with_latents):
        with pytest.raises(ValueError, match=r"LowRankFeatureModel\.sample\.n = 0 is out of range"):
            draw(0, 0)
        with pytest.raises(ValueError, match=r"LowRankFeatureModel\.sample was given seed = None"):
            draw(1, None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"LowRankFeatureModel\.batches\.batch_size = -2 is out of range"):
        model.batches(-2, 0)  # at once, not with the first batch
    with pytest.raises(ValueError, match=r"LowRankFeatureModel\.batches was given seed = 'a'"):
        model.batches(1, "a")  # pyright: ignore[reportArgumentType]

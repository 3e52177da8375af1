"""One SAE of the features of many: what is kept, in which order, and that it fires as it did."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TopKSAE, TopKTrainingSAE, TopKTrainingSAEConfig

from sae_lens_ext import weights_fingerprint
from sae_lens_ext.analysis.stability import firing_rates_on, pool_features
from tests.analysis.stability.labelled import random_rows
from tests.analysis.stability.pooling.pools import D_IN, K, axis, overlapping, sae_of, two_pools

KINDS = ("topk", "rescaled_topk", "jumprelu", "standard")


def directions(sae: SAE[Any]) -> list[int]:
    """The axis that each decoder row is nearest to."""
    return sae.W_dec.argmax(dim=1).tolist()


def sources(pooled: SAE[Any], saes: Sequence[Any]) -> list[tuple[int, int]]:
    """Which latent of which SAE each latent was, by its encoder vector."""
    found: list[tuple[int, int]] = []
    for column in pooled.W_enc.T:
        [match] = [
            (s, i)
            for s, sae in enumerate(saes)
            for i, own in enumerate(sae.W_enc.T)
            if torch.equal(own, column)
        ]
        found.append(match)
    return found


def pre_activations(sae: Any, x: torch.Tensor) -> torch.Tensor:
    """What the activation function is given, [n, d_sae]."""
    kept: list[torch.Tensor] = []
    handle = sae.activation_fn.register_forward_pre_hook(lambda module, given: kept.append(given[0].detach()))
    sae.encode(x)
    handle.remove()
    return kept[0]


# What is kept, and in which order


def test_pool_features_keeps_what_comes_back_on_the_references_in_the_order_of_how_well() -> None:
    pooled, references = overlapping()
    best = pool_features(pooled, 4, references=references)
    # Mean cosines: axis 0 has 0.98, axis 1 0.95; of those with p̂ = 1/2, axis 4 was met at 0.9 and axis 2 at 0.8.
    assert directions(best) == [0, 1, 4, 2]
    assert sources(best, list(pooled.values())) == [(0, 2), (0, 3), (1, 1), (0, 1)]
    assert directions(pool_features(pooled, 3, references=references)) == [0, 1, 4]
    everything = pool_features(pooled, 6, references=references)
    assert directions(everything)[:4] == [0, 1, 4, 2] and sorted(directions(everything)) == list(range(6))


def test_pool_features_ranks_by_reappearance_before_cosines() -> None:
    near, far = axis(0), axis(1)  # 0 is met once and exactly, 1 twice and roughly
    pooled = [
        sae_of(torch.stack([near, far, axis(7), axis(8)])),
        sae_of(torch.stack([axis(2), axis(3), axis(4), axis(5)])),
    ]
    references = [
        sae_of(torch.stack([axis(0, 0.99), axis(1, 0.75), axis(10), axis(11)])),
        sae_of(torch.stack([axis(0, 0.69), axis(1, 0.75, 14), axis(12), axis(13)])),
    ]
    assert directions(pool_features(pooled, 3, references=references))[:2] == [1, 0]
    lower = pool_features(pooled, 3, references=references, threshold=0.6)
    assert directions(lower)[:2] == [0, 1]  # now both are met twice


def test_pool_features_leaves_latents_at_equal_rank_in_the_order_of_the_saes() -> None:
    pooled = {
        "a": sae_of(torch.stack([axis(i) for i in (4, 2, 0)])),
        "b": sae_of(torch.stack([axis(i) for i in (5, 1, 3)])),
    }
    rates = {name: torch.full((3,), 0.25) for name in pooled}
    assert directions(pool_features(pooled, 6, order="frequency", firing_rates=rates)) == [4, 2, 0, 5, 1, 3]


def test_pool_features_points_to_the_mean_of_the_cluster_with_the_kept_row_s_length() -> None:
    pooled, references = overlapping()
    sae = pool_features(pooled, 4, references=references)
    a, b = (member.W_dec for member in pooled.values())
    clusters = [[a[2], b[3]], [a[3], b[2]], [b[1]], [a[1]]]
    for row, members in zip(sae.W_dec, clusters, strict=True):
        direction = torch.stack([member / member.norm() for member in members]).mean(dim=0)
        torch.testing.assert_close(row, direction / direction.norm() * members[0].norm())
    torch.testing.assert_close(sae.b_dec, (pooled["a"].b_dec + pooled["b"].b_dec) / 2)


def test_pool_features_leaves_rows_of_zeros_and_rare_latents_out() -> None:
    pooled, references = overlapping()
    pooled["a"].W_dec.data[2] = 0  # axis 0 is left to b's row at 0.8
    kept = pool_features(pooled, 3, references=references)
    assert sorted(sources(kept, list(pooled.values()))) == [(0, 3), (1, 1), (1, 3)]
    with pytest.raises(ValueError, match="but the 7 latents that may be pooled hold 6 distinct features"):
        pool_features(pooled, 7, references=references)
    rates = {"a": torch.tensor([0.5, 0.5, 0.5, 0.001]), "b": torch.tensor([0.5, 0.5, 0.0, 0.5])}
    without = pool_features(pooled, 4, references=references, firing_rates=rates, min_firing_rate=0.01)
    assert 1 not in directions(without)  # one fires too rarely, the other never
    assert 1 in directions(pool_features(pooled, 4, references=references, firing_rates=rates))


def test_pool_features_takes_measured_rates_with_a_floor_of_a_hundred_firings() -> None:
    pooled, references = overlapping()
    generator = torch.Generator().manual_seed(0)
    measured = firing_rates_on(pooled, torch.randn(500, D_IN, generator=generator))
    often = sum(int((rates >= 0.2).sum()) for rates in measured.rates)  # 100 of 500
    assert 0 < often < 8
    with pytest.raises(ValueError, match=rf"but the {often} latents that may be pooled hold"):
        pool_features(pooled, 8, references=references, firing_rates=measured)


def test_pool_features_by_frequency_and_at_random() -> None:
    pooled, _ = overlapping()
    rates = {"a": torch.tensor([0.1, 0.4, 0.3, 0.2]), "b": torch.tensor([0.8, 0.05, 0.7, 0.6])}
    by_rate = pool_features(pooled, 5, order="frequency", firing_rates=rates)
    # 5 (0.8), then b's rows of 1 and 0, which take a's with them, then 2 (0.4) and 3 (0.1).
    assert sources(by_rate, list(pooled.values())) == [(1, 0), (1, 2), (1, 3), (0, 1), (0, 0)]
    state = torch.get_rng_state()
    drawn = [pool_features(pooled, 4, order="random", seed=seed) for seed in range(6)]
    assert torch.equal(state, torch.get_rng_state())
    again = pool_features(pooled, 4, order="random", seed=3)
    assert torch.equal(again.W_dec, drawn[3].W_dec) and torch.equal(again.W_enc, drawn[3].W_enc)
    assert len({tuple(directions(sae)) for sae in drawn}) > 1
    assert all(len(set(directions(sae))) == 4 for sae in drawn)  # distinct, whatever the order


def test_pool_features_that_all_seeds_share_gives_these_first() -> None:
    saes, references = two_pools("topk")
    pool = pool_features(saes, 8, references=references)
    assert sorted(latent for _, latent in sources(pool, saes)[:6]) == [4, 5, 6, 7, 8, 9]
    assert all(latent < 4 for _, latent in sources(pool, saes)[6:])


# It fires as it did


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("normalize_activations", ["none", "layer_norm", "constant_norm_rescale"])
def test_pool_features_gives_latents_that_fire_as_in_their_sae(
    kind: str, apply_b_dec_to_input: bool, normalize_activations: Any
) -> None:
    fields = {"apply_b_dec_to_input": apply_b_dec_to_input, "normalize_activations": normalize_activations}
    saes, references = two_pools(kind, **fields)
    before = [{name: tensor.clone() for name, tensor in sae.state_dict().items()} for sae in saes]
    settings = [sae.cfg.to_dict() for sae in saes]
    pool = pool_features(saes, 9, references=references)
    x = 3 * torch.randn(200, D_IN) + 1
    assert not torch.equal(saes[0].b_dec, saes[1].b_dec)
    ours, theirs = pre_activations(pool, x), [pre_activations(sae, x) for sae in saes]
    acts = pool.encode(x)
    for i, (s, latent) in enumerate(sources(pool, saes)):
        torch.testing.assert_close(ours[:, i], theirs[s][:, latent], atol=2e-4, rtol=1e-4)
        if "topk" not in kind:  # nothing but itself decides whether it fires
            torch.testing.assert_close(acts[:, i], saes[s].encode(x)[:, latent], atol=2e-4, rtol=1e-4)
            assert (acts[:, i] != 0).any()
    for sae, weights, own in zip(saes, before, settings, strict=True):
        assert all(torch.equal(weights[name], tensor) for name, tensor in sae.state_dict().items())
        assert sae.cfg.to_dict() == own
    for name in ("apply_b_dec_to_input", "normalize_activations", "k", "rescale_acts_by_decoder_norm"):
        assert getattr(pool.cfg, name, None) == getattr(saes[0].cfg, name, None)
    assert type(pool) is type(saes[0])


@pytest.mark.parametrize("mode", ["layer_norm", "constant_norm_rescale"])
def test_pool_features_of_saes_that_normalise_each_token_reconstructs_as_they_do(mode: Any) -> None:
    # Two SAEs with nothing in common but their decoder bias: all their latents together are their sum.
    saes = [
        sae_of(random_rows(5, D_IN, seed), "jumprelu", seed, normalize_activations=mode) for seed in (0, 1)
    ]
    for sae in saes:
        sae.b_dec.data.fill_(0.5)
    pool = pool_features(saes, 10, order="random", threshold=1.0)
    x = 4 * torch.randn(50, D_IN)

    def sums(sae: Any) -> torch.Tensor:
        """x̂ of each token before the normalisation is undone."""
        kept: list[torch.Tensor] = []
        sae.hook_sae_recons.add_hook(lambda tensor, hook: kept.append(tensor.clone()))
        sae(x)
        sae.reset_hooks()
        return kept[0]

    torch.testing.assert_close(sums(pool), sums(saes[0]) + sums(saes[1]) - 0.5, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_pool_features_in_bfloat16(kind: str) -> None:
    exact_saes, references = two_pools(kind)
    exact = pool_features(exact_saes, 9, references=references)
    saes = copy.deepcopy(exact_saes)
    for sae in (*saes, *references):
        sae.to(dtype=torch.bfloat16)
    pool = pool_features(saes, 9, references=references)
    assert pool.cfg.dtype == "bfloat16" and pool.dtype == torch.bfloat16
    assert all(tensor.dtype == torch.bfloat16 for tensor in pool.state_dict().values())
    assert sorted(sources(pool, saes)) == sorted(sources(exact, exact_saes))
    for row, (s, latent) in zip(pool.W_dec, sources(pool, saes), strict=True):
        assert row.float().norm().item() == pytest.approx(
            saes[s].W_dec[latent].float().norm().item(), rel=3e-3
        )
    x = torch.randn(20, D_IN)
    ours, theirs = pre_activations(pool, x), [pre_activations(sae, x) for sae in saes]
    for i, (s, latent) in enumerate(sources(pool, saes)):
        torch.testing.assert_close(ours[:, i], theirs[s][:, latent], atol=0.1, rtol=0.05)


def test_pool_features_takes_training_saes_in_their_inference_form() -> None:
    saes: list[Any] = []
    for seed in range(4):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            saes.append(TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=8, k=K)))
    pool = pool_features(saes[:2], 8, references=saes[2:])
    assert type(pool) is TopKSAE and pool.cfg.rescale_acts_by_decoder_norm
    torch.testing.assert_close(pool.W_dec.norm(dim=1), torch.ones(8))


# What it says of itself


@pytest.mark.parametrize("kind", KINDS)
def test_pool_features_is_a_plain_sae_on_disk(tmp_path: Path, kind: str) -> None:
    saes, references = two_pools(kind, reshape_activations="hook_z")
    for sae in (*saes, *references):
        sae.cfg.metadata.hook_name = "blocks.1.attn.hook_z"
        sae.cfg.metadata.l0 = sae.cfg.metadata.num_dead_features = 7
        sae.cfg.metadata.neuronpedia_id = "gpt2/1"
    pool = pool_features(dict(zip("abc", saes, strict=True)), 9, references=references)
    metadata = pool.cfg.metadata
    assert metadata.pooled_from == {n: weights_fingerprint(s) for n, s in zip("abc", saes, strict=True)}
    assert metadata.pooled_order == "reappearance"
    assert (metadata.hook_name, metadata.model_name) == ("blocks.1.attn.hook_z", "gpt2")
    for name in ("initialisation_seed", "data_order_seed", "l0", "num_dead_features", "neuronpedia_id"):
        assert metadata[name] is None
    assert saes[0].cfg.metadata.l0 == 7 and saes[0].cfg.d_sae == 10
    pool.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is type(pool) is type(saes[0])
    assert loaded.cfg.to_dict() == pool.cfg.to_dict()
    z = torch.randn(5, 4, 2, D_IN // 2)
    assert torch.equal(loaded(z), pool(z)) and loaded(z).shape == z.shape

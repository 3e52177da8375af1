"""Training an encoder for a decoder that stays as it is."""

import math
from typing import Any

import pytest
import torch
from sae_lens import (
    SAE,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)

from sae_lens_ext import HierarchicalTopKTrainingSAE, HierarchicalTopKTrainingSAEConfig, weights_fingerprint
from sae_lens_ext.analysis.stability import pool_features, retrain_encoder
from sae_lens_ext.architectures.inference import as_inference
from tests.analysis.stability.labelled import random_rows

D_IN, D_SAE, K = 16, 24, 3
FEATURES = random_rows(D_SAE, D_IN, seed=0)
MEAN = torch.linspace(-1, 1, D_IN)


def activations(n: int, seed: int) -> torch.Tensor:
    """Sums of K of the features, [n, d_in], around a mean that is not 0."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n, D_SAE, generator=generator).topk(K).indices
    strength = 1 + torch.rand(n, K, generator=generator)
    return MEAN + torch.zeros(n, D_SAE).scatter_(1, active, strength) @ FEATURES


TRAIN, HELD_OUT = activations(2048, seed=1), activations(512, seed=2)


def sae_of(rescale: bool = False, damage: float = 0.5, **fields: Any) -> TopKSAE:
    """The true decoder, in lengths from 0.5 to 2, and a noisy encoder for it."""
    cfg = TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, rescale_acts_by_decoder_norm=rescale, **{"k": K, **fields})
    sae = TopKSAE(cfg)
    lengths = torch.linspace(0.5, 2, D_SAE)[:, None]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        sae.W_dec.copy_(FEATURES * lengths)
        noise = torch.randn(D_SAE, D_IN, generator=generator) * damage
        sae.W_enc.copy_(((FEATURES + noise) / lengths).T)
        sae.b_dec.copy_(MEAN)
    return sae


def retrain(sae: SAE[Any], x: torch.Tensor = TRAIN, **settings: Any) -> SAE[Any]:
    return retrain_encoder(sae, x, **{"n_tokens": 6400, "batch_size_tokens": 64, "lr": 1e-2, **settings})


@torch.no_grad()
def ev(sae: Any, x: torch.Tensor = HELD_OUT) -> float:
    error = (x - sae.decode(sae.encode(x)).float()).pow(2).sum()
    return 1 - float(error / (x - x.mean(dim=0)).pow(2).sum())


def state(sae: SAE[Any]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
def test_retrain_encoder_mends_an_encoder_and_leaves_the_decoder_to_the_last_bit(
    rescale: bool, apply_b_dec_to_input: bool
) -> None:
    sae = sae_of(rescale, apply_b_dec_to_input=apply_b_dec_to_input)
    sae.cfg.metadata.pooled_order, sae.cfg.metadata.l0 = "reappearance", 99.0
    before, cfg = state(sae), sae.cfg.to_dict()
    new = retrain(sae)
    assert ev(new) > ev(sae) + 0.1
    assert torch.equal(new.W_dec, sae.W_dec) and torch.equal(new.b_dec, sae.b_dec)
    assert not torch.equal(new.W_enc, sae.W_enc) and not torch.equal(new.b_enc, sae.b_enc)
    # The SAE that was given stays as it is, and shares nothing with the new one.
    assert same(state(sae), before) and sae.cfg.to_dict() == cfg
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.zero_()
    assert same(state(sae), before)
    assert type(new) is TopKSAE and new.cfg.k == K
    own = {**new.cfg.to_dict(), "metadata": None}
    assert own == {**cfg, "metadata": None}
    assert new.cfg.metadata.pooled_order == "reappearance"
    assert 0 < new.cfg.metadata.l0 <= K and sae.cfg.metadata.l0 == 99


def test_retrain_encoder_does_no_harm_to_a_good_encoder() -> None:
    good = retrain(sae_of(), n_tokens=12_800)
    again = retrain(good, lr=1e-3)
    assert ev(again) > ev(good) - 0.005


def test_retrain_encoder_gives_what_its_seed_says_and_leaves_other_randomness_alone() -> None:
    sae = sae_of()
    before = torch.get_rng_state()
    first, again, other = (retrain(sae, n_tokens=640, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    elsewhere = retrain(sae, n_tokens=640, seed=1)
    assert same(state(first), state(again)) and same(state(first), state(elsewhere))
    assert not same(state(first), state(other))


def test_retrain_encoder_goes_through_the_activations_again_in_another_order(monkeypatch) -> None:
    seen: list[torch.Tensor] = []
    step = TopKTrainingSAE.training_forward_pass

    def noting(sae: Any, step_input: Any) -> Any:
        seen.append(step_input.sae_in.clone())
        return step(sae, step_input)

    monkeypatch.setattr(TopKTrainingSAE, "training_forward_pass", noting)
    x = TRAIN[:12]
    retrain(sae_of(), x, n_tokens=27, batch_size_tokens=4, seed=5)
    assert [batch.shape for batch in seen] == [(4, D_IN)] * 6  # 27 tokens in whole batches
    first, second = (sorted(torch.cat(seen[i : i + 3]).tolist()) for i in (0, 3))
    assert first == second == sorted(x.tolist())
    assert not torch.equal(seen[0], seen[3])


@pytest.mark.parametrize("rescale", [False, True])
def test_retrain_encoder_takes_a_training_sae_in_its_inference_form(rescale: bool) -> None:
    training = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K, rescale_acts_by_decoder_norm=rescale)
    )
    before = state(training)
    new = retrain(training, n_tokens=640)
    assert torch.equal(new.W_dec, as_inference(training).W_dec) and same(state(training), before)
    hierarchical = HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K))
    assert type(retrain(hierarchical, n_tokens=640)) is TopKSAE


def test_retrain_encoder_of_heads_keeps_them(tmp_path) -> None:
    sae = sae_of(reshape_activations="hook_z")
    sae.cfg.metadata.hook_name = "blocks.0.attn.hook_z"
    new = retrain(sae, n_tokens=640)
    assert new.hook_z_reshaping_mode and sae.hook_z_reshaping_mode
    z = HELD_OUT.reshape(-1, 2, D_IN // 2)
    assert new(z).shape == z.shape
    new.save_model(tmp_path)
    assert torch.equal(SAE.load_from_disk(tmp_path)(z), new(z))
    flat = retrain(sae_of(), n_tokens=640)
    assert torch.equal(new(z).flatten(1), flat(HELD_OUT))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_retrain_encoder_keeps_the_precision_and_trains_in_no_less_than_float32(dtype: torch.dtype) -> None:
    sae = sae_of().to(dtype=dtype)
    before = state(sae)
    new = retrain(sae, TRAIN.to(dtype))
    assert new.dtype == dtype and new.cfg.dtype == sae.cfg.dtype == str(dtype).removeprefix("torch.")
    assert all(tensor.dtype == dtype for tensor in new.state_dict().values())
    assert torch.equal(new.W_dec, sae.W_dec) and torch.equal(new.b_dec, sae.b_dec)
    assert same(state(sae), before)
    assert ev(new) > ev(sae) + 0.1


def test_retrain_encoder_adds_up_steps_that_bfloat16_would_round_away() -> None:
    sae, exact = sae_of().to(dtype=torch.bfloat16), sae_of()
    new, trained = retrain(sae, lr=1e-5), retrain(exact, lr=1e-5)
    assert not torch.equal(new.W_enc, sae.W_enc)
    largest = (trained.W_enc - exact.W_enc).abs().max()
    assert (new.W_enc.float() - trained.W_enc).abs().max() < 2**-8 * exact.W_enc.abs().max() + largest


def test_retrain_encoder_of_a_pool_makes_up_for_encoders_that_were_not_trained_together() -> None:
    saes = []
    for seed in range(4):
        sae = sae_of(damage=0.0)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            sae.W_dec.add_(0.05 * torch.randn(D_SAE, D_IN, generator=generator))
            sae.W_enc.add_(0.5 * torch.randn(D_IN, D_SAE, generator=generator))
        saes.append(sae)
    pool = pool_features(saes[:2], D_SAE, references=saes[2:])
    new = retrain(pool)
    assert ev(new) > ev(pool) and torch.equal(new.W_dec, pool.W_dec)
    assert new.cfg.metadata.pooled_from == pool.cfg.metadata.pooled_from
    assert weights_fingerprint(new) != weights_fingerprint(pool)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_retrain_encoder_for_a_few_steps(steps: int) -> None:
    assert not torch.equal(retrain(sae_of(), n_tokens=64 * steps).W_enc, sae_of().W_enc)


# What is refused


def test_retrain_encoder_refuses_other_architectures() -> None:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE))
    with pytest.raises(
        ValueError,
        match=r"architecture 'jumprelu'. It trains topk SAEs, whose sparsity needs no coefficient to be chosen\.",
    ):
        retrain(sae)


@pytest.mark.parametrize(
    "mode", ["expected_average_only_in", "covariance_whitening", "layer_norm", "constant_norm_rescale"]
)
def test_retrain_encoder_refuses_normalisations(mode: Any) -> None:
    with pytest.raises(
        ValueError,
        match=rf"normalize_activations = '{mode}'. .* Give an SAE that reads activations as they are\.",
    ):
        retrain(sae_of(normalize_activations=mode))


@pytest.mark.parametrize("shape", [(2048, D_IN + 1), (63, D_IN), (8, 16, D_IN), (D_IN,)])
def test_retrain_encoder_refuses_activations_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as info:
        retrain(sae_of(), torch.zeros(shape))
    assert str(info.value) == (
        f"retrain_encoder was given activations of the shape {shape}. Give [n, 16] with at least one batch of 64 rows."
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_retrain_encoder_refuses_activations_that_are_no_numbers(bad: float) -> None:
    x = TRAIN.clone()
    x[100, 3] = bad
    with pytest.raises(ValueError, match=r"activations that hold NaN or infinity. Look at the precision"):
        retrain(sae_of(), x)


@pytest.mark.parametrize("lr", [0, -1e-3, math.nan, math.inf, True])
def test_retrain_encoder_refuses_what_is_no_learning_rate(lr: Any) -> None:
    with pytest.raises(ValueError) as info:
        retrain(sae_of(), lr=lr)
    assert str(info.value) == (
        f"retrain_encoder was given lr = {lr!r}, which is no learning rate. Give a number above 0, such as 1e-3."
    )


def test_retrain_encoder_refuses_sizes_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"retrain_encoder.n_tokens = 0 is out of range"):
        retrain(sae_of(), n_tokens=0)
    with pytest.raises(
        ValueError, match=r"retrain_encoder.batch_size_tokens must be a whole number, but 64.0"
    ):
        retrain(sae_of(), batch_size_tokens=64.0)
    with pytest.raises(
        ValueError,
        match=r"n_tokens = 63, which is less than one batch of 64, so that nothing would be trained. Give more\.",
    ):
        retrain(sae_of(), n_tokens=63)

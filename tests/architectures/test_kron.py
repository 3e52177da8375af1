"""What is KronSAE's own: its index, its start, its trap of latents that are off, its checks."""

import math

import pytest
import torch
from sae_lens import SAE

from sae_lens_ext import KronSAE, KronSAEConfig, KronTrainingSAE, KronTrainingSAEConfig, load_sae
from tests.contract.synthetic import step_input


def small(**fields) -> KronTrainingSAE:
    return KronTrainingSAE(
        KronTrainingSAEConfig(**{"d_in": 6, "d_sae": 24, "k": 5, "extension_dim": 3, **fields})
    )


def randomised(sae: KronTrainingSAE) -> KronTrainingSAE:
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return sae


def encode_by_loop(sae: KronTrainingSAE | KronSAE, x: torch.Tensor) -> torch.Tensor:
    """Heads, pairs and the k best, one number at a time, from the fused matrix."""
    m, n, width = sae.cfg.base_dim, sae.cfg.extension_dim, sae.cfg.base_dim + sae.cfg.extension_dim
    W, b = sae.W_enc.tolist(), sae.b_enc.tolist()
    fused = [sum(x[i].item() * W[i][c] for i in range(len(x))) + b[c] for c in range(len(b))]
    scores = []
    for head in range(sae.n_heads):
        P, Q = fused[head * width : head * width + m], fused[head * width + m : (head + 1) * width]
        scores += [math.sqrt(u * v) if u > 0 and v > 0 else 0.0 for u in P for v in Q]
    kept = sorted(range(len(scores)), key=lambda f: -scores[f])[: sae.cfg.k]
    assert len(scores) == sae.n_heads * m * n
    return torch.tensor([scores[f] if f in kept else 0.0 for f in range(len(scores))])


def test_KronTrainingSAE_encode_equals_the_loop() -> None:
    sae = randomised(small())
    for x in torch.randn(5, 6):
        torch.testing.assert_close(sae.encode(x.unsqueeze(0))[0], encode_by_loop(sae, x))


def test_KronTrainingSAE_initial_weights_are_the_papers() -> None:
    sae = KronTrainingSAE(KronTrainingSAEConfig(d_in=64, d_sae=4096, base_dim=2, extension_dim=4))
    assert sae.W_enc.shape == (64, 512 * 6) and not sae.b_enc.any() and not sae.b_dec.any()
    assert sae.W_enc.std().item() == pytest.approx(1 / math.sqrt(2 * 4096), rel=0.02)
    assert sae.W_enc.mean().abs().item() < 1e-4
    head, i, j = 7, 1, 2
    p, q = sae.W_enc[:, head * 6 + i], sae.W_enc[:, head * 6 + 2 + j]
    row = sae.W_dec[(head * 2 + i) * 4 + j]
    torch.testing.assert_close(row, (p + q) / (p + q).norm())


def test_KronTrainingSAE_selects_no_latent_with_a_parent_off() -> None:
    sae = small(k=20)  # more than can be on
    x = torch.randn(200, 6)
    base, extension = sae.pre_latents(x)
    on = ((base > 0).unsqueeze(-1) & (extension > 0).unsqueeze(-2)).flatten(1)
    acts = sae.encode(x)
    assert not acts[~on].any()
    assert ((acts != 0).sum(-1) == on.sum(-1).clamp(max=20)).all()  # L0 below k where too few are on


def test_KronTrainingSAE_pre_latents_are_the_encoders_columns() -> None:
    sae = randomised(small())
    x = torch.randn(2, 3, 6)
    base, extension = sae.pre_latents(x)
    assert base.shape == (2, 3, 4, 2) and extension.shape == (2, 3, 4, 3)
    torch.testing.assert_close(base[..., 1, 0], x @ sae.W_enc[:, 5] + sae.b_enc[5])
    torch.testing.assert_close(extension[..., 1, 2], x @ sae.W_enc[:, 9] + sae.b_enc[9])


def test_KronTrainingSAE_gradients_are_finite_when_everything_is_off() -> None:
    sae = small()
    with torch.no_grad():
        sae.b_enc.fill_(-100.0)
    output = sae.training_forward_pass(step_input(torch.randn(8, 6), dead=torch.ones(24, dtype=torch.bool)))
    output.loss.backward()
    assert not output.feature_acts.any()
    assert sae.W_enc.grad is not None and not sae.W_enc.grad.any()
    assert sae.b_dec.grad is not None and torch.isfinite(sae.b_dec.grad).all()


def test_KronTrainingSAE_ignores_decoder_norms_and_saves_unit_rows(tmp_path) -> None:
    sae = randomised(small())
    x = torch.randn(10, 6)
    before = sae(x)
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(24, 1) + 0.5)
    torch.testing.assert_close(sae(x), before)
    sae.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    torch.testing.assert_close(loaded.W_dec.norm(dim=-1), torch.ones(24))
    torch.testing.assert_close(loaded(x), before)


def test_KronTrainingSAE_auxiliary_loss_is_topks_on_the_scores_of_dead_latents() -> None:
    """Gao et al.: the d_in/2 best dead latents rebuild the error, without bias, weight coefficient × scale."""
    sae, x = randomised(small(aux_loss_coefficient=1 / 32)), torch.randn(7, 6)
    dead = torch.zeros(24, dtype=torch.bool)
    dead[[1, 8, 9, 20, 23]] = True
    output = sae.training_forward_pass(step_input(x, dead=dead))
    rows = sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True)
    scores = KronTrainingSAE.encode(small_with(sae, k=24), x)
    scores[:, ~dead] = -1.0
    values, indices = scores.topk(3)  # d_in // 2
    rebuilt = (values.unsqueeze(-1) * rows[indices]).sum(1)
    error = (x - output.sae_out).detach()
    expected = (error - rebuilt).pow(2).sum(-1).mean() / 32  # 5 dead ≥ 3, so the scale is 1
    torch.testing.assert_close(output.losses["auxiliary_reconstruction_loss"], expected)


def small_with(sae: KronTrainingSAE, **fields) -> KronTrainingSAE:
    other = small(**fields)
    other.load_state_dict(sae.state_dict())
    return other


@pytest.mark.parametrize("cls", [KronSAE, KronTrainingSAE])
def test_Kron_encode_sparse_holds_what_encode_does(cls) -> None:
    config = {KronSAE: KronSAEConfig, KronTrainingSAE: KronTrainingSAEConfig}[cls]
    sae = cls(config(d_in=6, d_sae=24, k=9, base_dim=2, extension_dim=3))
    x = torch.randn(3, 4, 6)
    values, indices = sae.encode_sparse(x)
    assert values.shape == indices.shape == (3, 4, 9)
    assert (values.diff(dim=-1) <= 0).all()
    torch.testing.assert_close(torch.zeros(3, 4, 24).scatter(-1, indices, values), sae.encode(x))


def test_KronTrainingSAE_encoder_is_the_papers_fraction_of_topks() -> None:
    for m, n in ((2, 4), (4, 4), (8, 8)):
        sae = KronTrainingSAE(KronTrainingSAEConfig(d_in=6, d_sae=128, base_dim=m, extension_dim=n))
        assert sae.W_enc.numel() == 6 * 128 * (1 / m + 1 / n)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"d_sae": 20}, r"d_sae = 20 does not divide .* 2 · 3 = 6 latents. Use d_sae = 18 or 24"),
        ({"d_sae": 5}, r"Use d_sae = 6"),
        ({"k": 0}, r"k = 0 is out of range. Give an int between 1 and d_sae = 24"),
        ({"k": 25}, r"k = 25 is out of range"),
        ({"k": 2.5}, r"k must be a whole number, but 2.5 was given"),
        ({"base_dim": 0}, r"base_dim = 0 is out of range"),
        ({"extension_dim": -1}, r"extension_dim = -1 is out of range"),
        ({"use_sparse_activations": True}, r"use_sparse_activations = True is not supported"),
        (
            {"normalize_activations": "layer_norm"},
            r"'layer_norm' is not supported by the architecture 'kron'",
        ),
    ],
)
def test_KronTrainingSAEConfig_refuses(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        small(**fields)


def test_KronSAE_refuses_to_fold_norms_that_matter() -> None:
    sae = KronSAE(KronSAEConfig(d_in=6, d_sae=24, k=5, extension_dim=3))
    with torch.no_grad():
        sae.W_dec[3] *= 2
    before = sae.W_dec.clone()
    with pytest.raises(NotImplementedError, match="norms between 1 and 2.*shared by many latents"):
        sae.fold_W_dec_norm()
    assert torch.equal(sae.W_dec, before)


def test_Kron_checkpoint_of_training_loads_for_inference_with_the_same_outputs(tmp_path) -> None:
    """SAELens loads a folder by its architecture's name, and a checkpoint has the same name with raw decoder rows."""
    sae, x = randomised(small()), torch.randn(10, 6)
    sae.save_model(tmp_path)
    for loaded in (SAE.load_from_disk(tmp_path), load_sae(tmp_path)):
        assert type(loaded) is KronSAE
        torch.testing.assert_close(loaded(x), sae(x))
        loaded.fold_W_dec_norm()
        torch.testing.assert_close(loaded(x), sae(x))

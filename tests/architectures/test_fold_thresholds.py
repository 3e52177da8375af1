"""Folding thresholds changes what the numbers are counted in, and nothing of what the SAE does."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_ext.architectures.fold_thresholds import (
    FOLDED_METADATA_KEY,
    fold_thresholds,
    has_folded_thresholds,
    unit_row_thresholds,
)
from sae_lens_ext.architectures.inference import as_inference
from tests.architectures.bases import base_sae, residual_for

PRECISIONS = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def jumprelu(seed: int = 0, **fields: Any) -> JumpReLUSAE:
    sae: Any = base_sae("jumprelu", seed, **fields)
    sae.threshold.data.add_(0.05)
    return sae


def fold_step_by_step(sae: JumpReLUSAE) -> dict[str, torch.Tensor]:
    """The paper's two steps, latent by latent: the decoder rows made unit norm, then the thresholds made 1."""
    W_enc, b_enc, W_dec = sae.W_enc.detach().clone(), sae.b_enc.detach().clone(), sae.W_dec.detach().clone()
    for i in range(sae.cfg.d_sae):
        norm = W_dec[i].norm()
        W_dec[i] /= norm
        W_enc[:, i] *= norm
        b_enc[i] *= norm
        theta = sae.threshold[i].detach() * norm
        W_enc[:, i] /= theta
        b_enc[i] /= theta
        W_dec[i] *= theta
    return {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec}


def tiny(
    *, threshold: float, row: tuple[float, float], column: tuple[float, float], bias: float
) -> JumpReLUSAE:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=2, d_sae=1))
    sae.W_enc.data = torch.tensor([column]).T.contiguous()
    sae.b_enc.data = torch.tensor([bias])
    sae.W_dec.data = torch.tensor([row])
    sae.threshold.data = torch.tensor([threshold])
    return sae


def test_fold_thresholds_on_a_latent_worked_by_hand() -> None:
    sae = tiny(threshold=2.0, row=(3.0, 4.0), column=(1.0, 0.5), bias=1.0)
    folded: Any = fold_thresholds(sae)
    # The row has norm 5, so that θ = 10: W_enc = 5 · (1, 0.5) / 10, b_enc = 5 / 10, and the row is 10 · (0.6, 0.8).
    assert torch.equal(folded.W_enc, torch.tensor([[0.5], [0.25]]))
    assert torch.equal(folded.b_enc, torch.tensor([0.5]))
    assert torch.equal(folded.W_dec, torch.tensor([[6.0, 8.0]]))
    assert torch.equal(folded.threshold, torch.ones(1))
    x = torch.tensor([[1.0, 4.0]])  # pre-activation 4, which is twice the threshold
    assert folded.encode(x).item() == 2 and sae.encode(x).item() == 4
    assert torch.equal(folded.decode(folded.encode(x)), torch.tensor([[12.0, 16.0]]))


def test_fold_thresholds_is_the_papers_two_steps() -> None:
    sae = jumprelu()
    folded = fold_thresholds(sae)
    for name, expected in fold_step_by_step(sae).items():
        torch.testing.assert_close(getattr(folded, name).detach(), expected)


def test_folded_rows_have_the_norm_of_the_threshold_of_unit_rows() -> None:
    sae = jumprelu()
    theta = sae.threshold * sae.W_dec.norm(dim=1)
    folded = fold_thresholds(sae)
    torch.testing.assert_close(folded.W_dec.norm(dim=1), theta)
    for one in (sae, folded):
        torch.testing.assert_close(unit_row_thresholds(one, [3, 1]), theta[[3, 1]].detach())


@given(
    st.integers(0, 10_000), st.sampled_from(["none", "layer_norm", "constant_norm_rescale"]), st.booleans()
)
def test_a_folded_SAE_fires_and_decodes_as_before(seed: int, normalization: str, centred: bool) -> None:
    sae = jumprelu(seed, normalize_activations=normalization, apply_b_dec_to_input=centred).double()
    folded = fold_thresholds(sae)
    x = 2 * torch.randn(64, sae.cfg.d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        acts = sae.encode(x)
        expected = sae.decode(acts)
        folded_acts = folded.encode(x)
        found = folded.decode(folded_acts)
    assert torch.equal(folded_acts > 0, acts > 0) and bool((acts > 0).any())
    torch.testing.assert_close(folded_acts * sae.threshold, acts)
    torch.testing.assert_close(found, expected)
    assert bool((folded_acts[folded_acts > 0] > 1).all())


@given(st.integers(0, 10_000), st.sampled_from(list(PRECISIONS)))
def test_folding_twice_is_folding_once(seed: int, dtype: torch.dtype) -> None:
    once = fold_thresholds(jumprelu(seed).to(dtype=dtype))
    twice = fold_thresholds(once)
    assert all(torch.equal(t, twice.state_dict()[name]) for name, t in once.state_dict().items())
    assert twice.cfg.metadata == once.cfg.metadata


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_folded_SAE_agrees_in_its_own_precision(dtype: torch.dtype) -> None:
    sae = jumprelu().to(dtype=dtype)
    folded = fold_thresholds(sae)
    assert {t.dtype for t in folded.state_dict().values()} == {dtype}
    x = torch.randn(256, sae.cfg.d_in, generator=torch.Generator().manual_seed(3)).to(dtype)
    with torch.no_grad():
        pre = (x - sae.b_dec).double() @ sae.W_enc.double() + sae.b_enc.double()
        clear = (pre - sae.threshold.double()).abs() > 5 * PRECISIONS[dtype]  # of rounding
        acts, folded_acts = sae.encode(x) * clear, folded.encode(x) * clear
        assert clear.double().mean() > 0.8 and torch.equal(acts > 0, folded_acts > 0)
        expected = sae.double().decode(acts.double())
        found = folded.double().decode(folded_acts.double())
    assert float((found - expected).norm() / expected.norm()) < PRECISIONS[dtype]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_latent_at_its_threshold_stays_silent_and_just_above_it_fires(dtype: torch.dtype) -> None:
    sae = tiny(threshold=0.25, row=(1.0, 0.0), column=(1.0, 0.0), bias=0.0).to(dtype=dtype)
    x = torch.tensor([[0.25, 0.0], [0.25 * (1 + torch.finfo(dtype).eps), 0.0]], dtype=dtype)
    for one in (sae, fold_thresholds(sae)):
        assert (one.encode(x) > 0)[:, 0].tolist() == [False, True]


def test_fold_thresholds_leaves_the_users_SAE_and_keeps_metadata() -> None:
    sae = jumprelu()
    sae.cfg.metadata.neuronpedia_id = "tiny/1-res"
    before, metadata = copy.deepcopy(sae.state_dict()), copy.deepcopy(sae.cfg.metadata)
    folded = fold_thresholds(sae)
    folded.W_dec.data.zero_()
    folded.b_dec.data.zero_()
    assert all(torch.equal(t, before[name]) for name, t in sae.state_dict().items())
    assert sae.cfg.metadata == metadata and not has_folded_thresholds(sae)
    assert has_folded_thresholds(folded)
    assert folded.cfg.metadata.to_dict() == {**metadata.to_dict(), FOLDED_METADATA_KEY: True}


def test_a_folded_SAE_is_saved_as_an_ordinary_jumprelu(tmp_path: Path) -> None:
    folded = fold_thresholds(jumprelu())
    folded.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is JumpReLUSAE and has_folded_thresholds(loaded)
    x = torch.randn(8, folded.cfg.d_in)
    assert torch.equal(loaded(x), folded(x))


def test_heads_are_still_reshaped_after_folding() -> None:
    sae = jumprelu(d_in=12, reshape_activations="hook_z")
    sae.cfg.metadata.hook_name = "blocks.0.attn.hook_z"
    folded = fold_thresholds(sae)
    heads = torch.randn(2, 5, 3, 4)
    assert folded(heads).shape == heads.shape
    torch.testing.assert_close(folded(heads), sae(heads))


@pytest.mark.parametrize("kind", ["residual", "batchtopk"])
def test_training_SAEs_that_are_saved_as_jumprelu_are_folded(kind: str) -> None:
    if kind == "residual":
        sae: Any = residual_for(base_sae("standard"))
    else:
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=8, d_sae=20, k=3))
        sae.topk_threshold.fill_(0.01)
        sae.b_enc.data.fill_(0.2)
    inference = as_inference(sae)
    folded = fold_thresholds(sae)
    x = 2 * torch.randn(64, sae.cfg.d_in)
    with torch.no_grad():
        assert torch.equal(folded.encode(x) > 0, inference.encode(x) > 0) and bool(
            (folded.encode(x) > 0).any()
        )
        torch.testing.assert_close(folded(x), inference(x))
    assert folded.cfg.metadata.residual_base == inference.cfg.metadata.residual_base


@pytest.mark.parametrize("kind", ["standard", "gated", "topk"])
def test_fold_thresholds_refuses_other_architectures(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"the architecture '{kind}' has no threshold for each latent"):
        fold_thresholds(base_sae(kind))
    with pytest.raises(
        ValueError, match=r"Thresholds of str cannot be folded. Give an SAE; load_sae\(folder\) loads one"
    ):
        fold_thresholds("folder")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_fold_thresholds_refuses_thresholds_it_cannot_divide_by(value: float) -> None:
    sae = jumprelu()
    sae.threshold.data[3] = value
    with pytest.raises(
        ValueError, match=rf"1 of {sae.cfg.d_sae} thresholds of the SAE are not .* latent 3 with {value}"
    ):
        fold_thresholds(sae)
    with pytest.raises(ValueError, match=rf"1 of 2 thresholds .* latent 3 with {value}"):
        unit_row_thresholds(sae, [1, 3])
    assert len(unit_row_thresholds(sae, [1, 2])) == 2


def test_fold_thresholds_refuses_rows_without_direction() -> None:
    sae = jumprelu()
    sae.W_dec.data[2] = 0
    with pytest.raises(
        ValueError, match=rf"1 of {sae.cfg.d_sae} decoder rows of the SAE are zero, .* latent 2"
    ):
        fold_thresholds(sae)


@pytest.mark.parametrize("mode", ["expected_average_only_in", "covariance_whitening"])
def test_fold_thresholds_refuses_a_normalisation_that_is_not_folded(mode: str) -> None:
    with pytest.raises(ValueError, match=rf"normalize_activations = '{mode}', which was never folded"):
        fold_thresholds(jumprelu(normalize_activations=mode))


def test_fold_thresholds_says_when_weights_leave_the_precision() -> None:
    large = tiny(threshold=1e-6, row=(1.0, 0.0), column=(1.0, 0.0), bias=0.0).to(dtype=torch.float16)
    with pytest.raises(ValueError, match=r"a W_enc that is NaN or infinite in torch.float16.*sae.to\(dtype"):
        fold_thresholds(large)
    small = tiny(threshold=1e-5, row=(1e-4, 0.0), column=(1e-4, 0.0), bias=0.0).to(dtype=torch.float16)
    with pytest.raises(ValueError, match=r"a W_dec that has rows that are rounded to zero in torch.float16"):
        fold_thresholds(small)
    broken = jumprelu()
    broken.W_enc.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="a W_enc that is NaN or infinite"):
        fold_thresholds(broken)

"""Each fold either changes no output or refuses before it has changed anything."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening

from .cases import CASES, TRAINED, ArchitectureCase
from .synthetic import D_IN, copy_of_state, same_state, sparse_activations

REFUSALS = (NotImplementedError, ValueError)


def whitening() -> ActivationWhitening:
    """A random affine map with singular values between 0.5 and 2."""
    generator = torch.Generator().manual_seed(11)
    left, right = (
        torch.linalg.qr(torch.randn(D_IN, D_IN, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    matrix = left @ torch.diag(torch.linspace(0.5, 2, D_IN, dtype=torch.float64)) @ right
    mean = 0.3 * torch.randn(D_IN, generator=generator, dtype=torch.float64)
    return ActivationWhitening(mean=mean, matrix=matrix, inverse_matrix=matrix.inverse())


def fold_scale(sae: SAE[Any]) -> None:
    sae.fold_activation_norm_scaling_factor(2.5)


def fold_whitening(sae: SAE[Any]) -> None:
    w = whitening()
    sae.fold_activation_whitening(mean=w.mean, whitening_matrix=w.matrix, unwhitening_matrix=w.inverse_matrix)


def fold_norms(sae: SAE[Any]) -> None:
    sae.fold_W_dec_norm()


FOLDS: dict[str, tuple[Callable[[SAE[Any]], None], Callable[[], ActivationScaler]]] = {
    "scale": (fold_scale, lambda: ActivationScaler(scaling_factor=2.5)),
    "whitening": (fold_whitening, lambda: ActivationScaler(whitening=whitening())),
    "decoder_norms": (fold_norms, ActivationScaler),
}
MODES = {"scale": "expected_average_only_in", "whitening": "covariance_whitening", "decoder_norms": "none"}
folds = pytest.mark.parametrize("fold", FOLDS)


def reconstruct(sae: SAE[Any], scaler: ActivationScaler, x: torch.Tensor) -> torch.Tensor:
    """What the trainer and SAELens' evaluations compute: raw activations to raw reconstructions."""
    return scaler.unscale(sae.decode(sae.encode(scaler.scale(x))))


def fold_or_refuse(sae: SAE[Any], fold: str) -> bool:
    """Apply a fold; if it refuses, it must have changed nothing."""
    before, cfg = copy_of_state(sae), copy.deepcopy(sae.cfg)
    try:
        FOLDS[fold][0](sae)
    except REFUSALS as refusal:
        assert len(str(refusal)) > 20, "a refusal says why"
        assert same_state(sae, before)
        assert sae.cfg == cfg
        return False
    return True


def assert_folds_exactly(sae: SAE[Any], fold: str) -> None:
    scaler, x = FOLDS[fold][1](), sparse_activations(64, seed=4)
    expected = reconstruct(sae, scaler, x)
    if fold_or_refuse(sae, fold):
        torch.testing.assert_close(sae.decode(sae.encode(x)), expected, rtol=1e-4, atol=1e-4)


@folds
@pytest.mark.parametrize("case", CASES, ids=str)
def test_fold_of_an_inference_sae(case: ArchitectureCase, fold: str):
    assert_folds_exactly(case.make_inference(), fold)


@folds
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_fold_of_a_training_sae(case: ArchitectureCase, fold: str):
    assert_folds_exactly(case.make_trained(), fold)


@folds
@pytest.mark.parametrize("apply_b_dec", [True, False], ids=["centred", "uncentred"])
@pytest.mark.parametrize("rescale", [True, False], ids=["rescaled", "unscaled"])
@pytest.mark.parametrize(
    "case", [c for c in TRAINED if hasattr(c.config(), "rescale_acts_by_decoder_norm")], ids=str
)
def test_fold_under_every_setting(case: ArchitectureCase, fold: str, rescale: bool, apply_b_dec: bool):
    sae = case.make_trained(rescale_acts_by_decoder_norm=rescale, apply_b_dec_to_input=apply_b_dec)
    assert_folds_exactly(sae, fold)


@pytest.mark.parametrize(
    ("case", "fold"),
    [(c, f) for c in TRAINED for f in FOLDS if f != "decoder_norms" and MODES[f] in c.normalizations],
    ids=str,
)
def test_folds_of_accepted_modes_are_never_refused(case: ArchitectureCase, fold: str):
    """The trainer folds when training is over and nothing is saved yet."""
    sae = case.make_trained(normalize_activations=MODES[fold])
    FOLDS[fold][0](sae)
    assert sae.cfg.normalize_activations == "none"


@folds
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_a_folded_sae_saves_as_it_is(case: ArchitectureCase, fold: str, tmp_path: Path):
    sae, scaler, x = case.make_trained(steps=20), FOLDS[fold][1](), sparse_activations(64, seed=4)
    expected = scaler.unscale(sae.decode(case.inference_acts(sae, scaler.scale(x))))
    if not fold_or_refuse(sae, fold):
        return
    sae.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert loaded.cfg.normalize_activations == "none"
    torch.testing.assert_close(loaded.decode(loaded.encode(x)), expected, rtol=1e-4, atol=1e-4)


@folds
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_folded_inference_sae_saves_as_it_is(case: ArchitectureCase, fold: str, tmp_path: Path):
    sae, x = case.make_inference(), sparse_activations(64, seed=4)
    fold_or_refuse(sae, fold)
    sae.save_model(tmp_path)
    torch.testing.assert_close(SAE.load_from_disk(tmp_path)(x), sae(x))


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_a_folded_training_sae_resumes_from_its_checkpoint(case: ArchitectureCase, tmp_path: Path):
    sae, x = case.make_trained(), sparse_activations(64, seed=4)
    fold_or_refuse(sae, "whitening")
    sae.save_model(tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path)
    torch.testing.assert_close(loaded.decode(loaded.encode(x)), sae.decode(sae.encode(x)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_folding_decoder_norms_twice_is_folding_once(case: ArchitectureCase):
    sae, x = case.make_inference(), sparse_activations(64, seed=4)
    expected = sae(x)
    for _ in range(2):
        fold_or_refuse(sae, "decoder_norms")
    torch.testing.assert_close(sae(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loading_can_fold_the_decoder_norms(case: ArchitectureCase, tmp_path: Path):
    sae, x = case.make_inference(), sparse_activations(64, seed=4)
    sae.save_model(tmp_path)
    folded = SAE.load_from_disk(tmp_path, fold_W_dec_norm=True)
    torch.testing.assert_close(folded(x), sae(x), rtol=1e-4, atol=1e-4)

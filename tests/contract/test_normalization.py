"""Every `normalize_activations` mode trains, folds, saves and loads, or is refused by the configuration."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE

from .cases import NORMALIZATIONS, OURS, TRAINED, ArchitectureCase
from .synthetic import BATCH, batches, make_trainer, sparse_activations

ACCEPTED = [(c, mode) for c in TRAINED for mode in NORMALIZATIONS if mode in c.normalizations]
REFUSED = [(c, mode) for c in TRAINED for mode in NORMALIZATIONS if mode not in c.normalizations]
RAW = {"scale": 20.0, "offset": 3.0}  # activations far from what an SAE likes to read
accepted = pytest.mark.parametrize(("case", "mode"), ACCEPTED, ids=str)


def fitted(case: ArchitectureCase, mode: str, steps: int = 100, **overrides: Any) -> TrainingSAE[Any]:
    """An SAE that SAELens' trainer has trained to the end on badly scaled activations."""
    data = {} if mode == "none" else RAW
    sae = case.make_training(normalize_activations=mode)
    settings = {"total_training_samples": BATCH * steps, "dead_feature_window": 1000, **overrides}
    return make_trainer(sae, batches(**data), **settings).fit()


def raw(mode: str, n: int = 512) -> torch.Tensor:
    return sparse_activations(n, seed=9999, **({} if mode == "none" else RAW))


@accepted
def test_fit_reconstructs_raw_activations(case: ArchitectureCase, mode: str):
    sae, x = fitted(case, mode), raw(mode)
    if case.predicts_error:
        x = x - sae.base(x)
    reconstruction = sae.decode(sae.encode(raw(mode)))
    explained = 1 - (reconstruction - x).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()
    assert explained > 0.25


@accepted
def test_loaded_equals_the_live_sae_on_raw_activations(case: ArchitectureCase, mode: str, tmp_path: Path):
    sae, x = fitted(case, mode, steps=20), raw(mode)
    sae.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    live = sae.decode(case.inference_acts(sae, x))
    torch.testing.assert_close(loaded(x), live, rtol=1e-4, atol=1e-3)
    if mode in ("expected_average_only_in", "covariance_whitening"):
        assert sae.cfg.normalize_activations == loaded.cfg.normalize_activations == "none"
    else:
        assert sae.cfg.normalize_activations == loaded.cfg.normalize_activations == mode


@pytest.mark.parametrize(("case", "mode"), [p for p in ACCEPTED if p[1] not in NORMALIZATIONS[3:]], ids=str)
def test_dead_latents_train_under_the_mode(case: ArchitectureCase, mode: str):
    sae = fitted(case, mode, steps=10, dead_feature_window=1)
    assert all(parameter.isfinite().all() for parameter in sae.parameters())


@accepted
def test_the_final_checkpoint_is_folded(case: ArchitectureCase, mode: str, tmp_path: Path):
    sae = fitted(case, mode, steps=4, checkpoint_path=str(tmp_path), save_final_checkpoint=True)
    loaded = TrainingSAE.load_from_disk(next(tmp_path.glob("final_*")))
    assert loaded.cfg.normalize_activations == sae.cfg.normalize_activations
    x = raw(mode, 32)
    torch.testing.assert_close(loaded(x), sae(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("case", "mode"), [p for p in REFUSED if p[0] in OURS], ids=str)
def test_other_modes_are_refused_when_configured(case: ArchitectureCase, mode: str):
    with pytest.raises(ValueError, match=rf"normalize_activations.*{mode}"):
        case.config(normalize_activations=mode)


@pytest.mark.parametrize(("case", "mode"), [p for p in REFUSED if p[0] in OURS], ids=str)
def test_the_refusal_names_the_modes_that_work(case: ArchitectureCase, mode: str):
    with pytest.raises(ValueError) as refusal:
        case.config(normalize_activations=mode)
    assert all(repr(works) in str(refusal.value) for works in case.normalizations)

"""Resuming from a checkpoint gives, bit for bit, what an uninterrupted run gives."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from sae_lens import TrainingSAE

from .cases import TRAINED, ArchitectureCase
from .synthetic import D_IN, batches, copy_of_state, make_trainer, run_steps, same_state

trained = pytest.mark.parametrize("case", TRAINED, ids=str)
SCHEDULE = {"lr_scheduler_name": "cosineannealing", "lr_warm_up_steps": 3, "dead_feature_window": 1}
SCALED = ("expected_average_only_in", "covariance_whitening")
BEFORE, AFTER = 6, 7


def checkpoint(case: ArchitectureCase, folder: Path, mode: str = "none") -> dict[str, torch.Tensor]:
    """Train past a checkpoint that is left in `folder` and return the weights at the end."""
    data = batches()
    trainer = make_trainer(case.make_training(normalize_activations=mode), data, **SCHEDULE)
    if mode == "expected_average_only_in":
        trainer.activation_scaler.estimate_scaling_factor(D_IN, batches(seed=500), 4)
    elif mode == "covariance_whitening":
        trainer.activation_scaler.estimate_whitening(D_IN, batches(seed=500), 4)
    run_steps(trainer, data, BEFORE)
    trainer.save_checkpoint("middle", base_path=folder)
    run_steps(trainer, data, AFTER)
    return copy_of_state(trainer.sae)


def resume(case: ArchitectureCase, folder: Path, mode: str = "none") -> TrainingSAE:
    """Go on from the checkpoint in `folder` as SAELens' runner does."""
    torch.manual_seed(77)
    sae = case.make_training(normalize_activations=mode)
    data = islice(batches(), BEFORE, None)
    trainer = make_trainer(sae, data, **SCHEDULE)
    trainer.load_trainer_state(folder / "middle")
    sae.load_weights_from_checkpoint(folder / "middle")
    assert trainer.n_training_steps == BEFORE
    run_steps(trainer, data, AFTER)
    return sae


@trained
def test_resumed_training_equals_uninterrupted_training(case: ArchitectureCase, tmp_path: Path):
    uninterrupted = checkpoint(case, tmp_path)
    assert same_state(resume(case, tmp_path), uninterrupted)


@pytest.mark.parametrize(
    ("case", "mode"), [(c, mode) for c in TRAINED for mode in SCALED if mode in c.normalizations], ids=str
)
def test_resumed_training_keeps_the_activation_scale(case: ArchitectureCase, mode: str, tmp_path: Path):
    uninterrupted = checkpoint(case, tmp_path, mode)
    assert same_state(resume(case, tmp_path, mode), uninterrupted)


@trained
def test_a_checkpoint_loads_by_name_as_a_training_sae(case: ArchitectureCase, tmp_path: Path):
    sae = case.make_trained()
    make_trainer(sae).save_checkpoint("now", base_path=tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path / "now")
    assert type(loaded) is type(sae)
    assert loaded.cfg == sae.cfg
    for name, tensor in sae.state_dict().items():
        # SAELens' loader casts everything to the SAE's dtype, the float64 threshold of BatchTopK too.
        assert torch.equal(loaded.state_dict()[name].float(), tensor.float()), name
    run_steps(make_trainer(loaded), batches(), 2)
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())


@trained
def test_the_same_data_gives_the_same_weights(case: ArchitectureCase, tmp_path: Path):
    torch.manual_seed(5)
    first = checkpoint(case, tmp_path / "first")
    torch.manual_seed(5)
    second = checkpoint(case, tmp_path / "second")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

"""SAELens trains on the ground truth of feature stability, and its SAEs find of it what the paper says."""

from typing import Any

import pytest
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.synthetic import FeatureDictionary, eval_sae_on_synthetic_data, train_toy_sae
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from sae_lens.training.sae_trainer import SAETrainer
from sae_lens.util import temporary_seed

from sae_lens_ext.analysis.stability.synthetic.model import LowRankFeatureModel
from tests.analysis.stability.synthetic.synthetic_cases import MODEL, trainer_config


def unexplained(sae: Any, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((sae(x) - x).square().sum() / (x - x.mean(dim=0)).square().sum())


def test_LowRankFeatureModel_batches_are_what_a_SAELens_trainer_trains_on() -> None:
    with temporary_seed(0):
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=24, d_sae=22, k=2))
    x = MODEL.sample(1000, 9)
    before = unexplained(sae, x)
    SAETrainer(
        cfg=trainer_config(steps=100, batch_size=64), sae=sae, data_provider=MODEL.batches(64, seed=0)
    ).fit()
    assert unexplained(sae, x) < 0.5 * before


def test_LowRankFeatureModel_dictionary_and_generator_are_what_SAELens_tools_take() -> None:
    assert isinstance(MODEL.dictionary, FeatureDictionary)
    assert torch.equal(MODEL.dictionary.feature_vectors, MODEL.features)
    with temporary_seed(0):
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=24, d_sae=22, k=2))
        train_toy_sae(sae, MODEL.dictionary, MODEL.generator, training_samples=640, batch_size=64)
        found = eval_sae_on_synthetic_data(sae, MODEL.dictionary, MODEL.generator, num_samples=256)
    assert found.true_l0 == pytest.approx(2.2, abs=0.5)  # 22 features, each in a tenth


def test_SAEs_recover_a_subspace_but_not_its_features() -> None:
    """The paper's finding (arXiv 2606.12138), in small."""
    model = LowRankFeatureModel(d_in=32, n_independent=16, n_low_rank=24, rank=4)
    saes = {}
    for seed in range(3):
        with temporary_seed(seed):
            saes[f"seed {seed}"] = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=32, d_sae=40, k=4))
    data = ({"x": batch} for batch in model.batches(256, seed=1))
    MultiSAETrainer(trainer_config(steps=250, batch_size=256), saes, dict.fromkeys(saes, "x"), data).fit()
    recovery = model.recovery(saes, n_samples=2048)
    assert recovery.mean("truth_cosine", "independent") > 0.95
    assert recovery.mean("null_truth_cosine", "independent") < 0.5
    assert recovery.mean("projection_energy", "low_rank") > 0.8
    null = recovery.mean("null_truth_cosine", "low_rank")
    assert recovery.mean("truth_cosine", "low_rank") == pytest.approx(null, abs=0.1)

"""SAELens' `run_evals` on a saved and loaded SAE, on the residual stream and on hook_z."""

import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import SAE, ActivationsStore, HookedSAETransformer
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

from .cases import CASES, TRAINED, ArchitectureCase
from .synthetic import D_IN, K, make_trainer

RESIDUAL_STREAM, HEADS = "blocks.0.hook_resid_post", "blocks.0.attn.hook_z"
# Where no feature of a residual SAE fires it predicts exactly nothing, and nothing has no direction.
UNDEFINED = {True: {"cossim"}, False: set()}
every = pytest.mark.parametrize("case", CASES, ids=str)


def evaluate(sae: SAE[Any], model: HookedSAETransformer, data: Dataset, hook: str) -> tuple[dict, dict]:
    metadata = {"model_name": "tiny", "hook_name": hook, "context_size": 16, "prepend_bos": True}
    for name, value in metadata.items():
        sae.cfg.metadata[name] = value
    store = ActivationsStore.from_sae(model, sae, data, store_batch_size_prompts=8, total_tokens=64)
    config = get_eval_everything_config(
        batch_size_prompts=8, n_eval_reconstruction_batches=1, n_eval_sparsity_variance_batches=2
    )
    if (
        sae.W_enc.shape[1] != sae.cfg.d_sae
    ):  # columns shared by latents: there is no encoder vector per latent
        config.compute_featurewise_weight_based_metrics = False
    return run_evals(sae, store, model, ActivationScaler(), config, exclude_special_tokens=[0])


@every
def test_every_metric_is_finite(case: ArchitectureCase, hooked_model, token_dataset):
    sae = case.make_inference()
    metrics, features = evaluate(sae, hooked_model, token_dataset, RESIDUAL_STREAM)
    assert {"ce_loss_score", "ce_loss_with_sae"} <= metrics["model_performance_preservation"].keys()
    assert "explained_variance" in metrics["reconstruction_quality"]
    numbers = {name: value for group in metrics.values() for name, value in group.items()}
    assert (
        not {name for name, value in numbers.items() if not math.isfinite(value)}
        - UNDEFINED[case.predicts_error]
    )
    if hasattr(sae.cfg, "k"):
        assert 0 < metrics["sparsity"]["l0"] <= K
    assert len(features["feature_density"]) == sae.cfg.d_sae


@pytest.mark.parametrize("case", [c for c in TRAINED if not c.predicts_error], ids=str)
def test_training_on_a_hook_shows_in_the_explained_variance(case, hooked_model, token_dataset):
    untrained, sae = case.make_training(), case.make_training()
    metadata = {"hook_name": RESIDUAL_STREAM, "context_size": 16, "prepend_bos": True}
    for name, value in metadata.items():
        sae.cfg.metadata[name] = value
    store = ActivationsStore.from_sae(
        hooked_model,
        sae,
        token_dataset,
        store_batch_size_prompts=8,
        train_batch_size_tokens=64,
        total_tokens=64,
    )
    make_trainer(sae, store, total_training_samples=64 * 60).fit()
    before, _ = evaluate(untrained, hooked_model, token_dataset, RESIDUAL_STREAM)
    after, _ = evaluate(sae, hooked_model, token_dataset, RESIDUAL_STREAM)
    gain = after["reconstruction_quality"]["explained_variance"]
    assert gain > before["reconstruction_quality"]["explained_variance"] + 0.05


@every
def test_heads_are_flattened_for_the_evaluation_and_unflattened_after(case, hooked_model, token_dataset):
    sae = case.make_inference(reshape_activations="hook_z")
    metrics, _ = evaluate(sae, hooked_model, token_dataset, HEADS)
    assert math.isfinite(metrics["reconstruction_quality"]["explained_variance"])
    assert sae.hook_z_reshaping_mode
    heads = hooked_model.run_with_cache(torch.tensor([[2, 3, 4]]))[1][HEADS]
    assert sae(heads).shape == heads.shape == (1, 3, 2, D_IN // 2)

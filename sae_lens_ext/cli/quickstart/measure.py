"""Measure the saved SAEs on held-out text, each loaded back by name."""

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from sae_lens import SAE, ActivationsStore
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.util import get_special_token_ids
from tqdm.auto import tqdm

from sae_lens_ext.architectures import budget_curve, with_k
from sae_lens_ext.architectures.loading import load_sae
from sae_lens_ext.cli.quickstart.plan import HIERARCHICAL, KRON, SAES, TOPK_BUDGETS, Plan, topk_name
from sae_lens_ext.run_folder import RunFolder


def measure(plan: Plan, folder: RunFolder, model: Any, dataset: Dataset) -> dict[str, Any]:
    """Evaluate every SAE, the HierarchicalTopK at each of TopK's budgets, and the curves over k.

    Each number is kept when it is found, so an interrupted measurement goes on where it was.

    Returns:
        "rows", a list of measurements, and "curves", explained variance over k by SAE.
    """
    jobs = [
        *((topk_name(k), k) for k in TOPK_BUDGETS),
        *((HIERARCHICAL, k) for k in TOPK_BUDGETS),
        (KRON, 32),
    ]
    rows = [
        folder.remembered(f"{name}_at_{k}", _evaluation(plan, folder, model, dataset, name, k))
        for name, k in tqdm(jobs, desc="Evaluating")
    ]
    curves = folder.remembered("curves", lambda: _curves(plan, folder, model, dataset))
    return {"rows": rows, "curves": curves}


def _evaluation(
    plan: Plan, folder: RunFolder, model: Any, dataset: Dataset, name: str, k: int
) -> Callable[[], dict[str, Any]]:
    def evaluate() -> dict[str, Any]:
        path = folder.path / SAES / name
        sae = load_sae(path, device=plan.device)
        if sae.cfg.k != k:
            sae = with_k(sae, k)
        metrics, per_latent = run_evals(
            sae,
            _store(plan, model, sae, dataset),
            model,
            ActivationScaler(),
            EvalConfig(
                batch_size_prompts=plan.eval_batch_prompts,
                n_eval_reconstruction_batches=plan.eval_batches_ce,
                n_eval_sparsity_variance_batches=plan.eval_batches_ev,
                compute_ce_loss=True,
                compute_sparsity_metrics=True,
                compute_variance_metrics=True,
                compute_featurewise_density_statistics=True,
            ),
        )
        return {
            "sae": name,
            "k": k,
            "architecture": sae.cfg.metadata.training_architecture,
            "loaded_class": type(sae).__name__,
            "explained_variance": metrics["reconstruction_quality"]["explained_variance"],
            "ce_loss_score": metrics["model_performance_preservation"]["ce_loss_score"],
            "ce_loss_with_sae": metrics["model_performance_preservation"]["ce_loss_with_sae"],
            "ce_loss_without_sae": metrics["model_performance_preservation"]["ce_loss_without_sae"],
            "l0": metrics["sparsity"]["l0"],
            "dead_latents": sum(density == 0 for density in per_latent["feature_density"]),
            "parameters": sum(p.numel() for p in sae.parameters()),
            "encoder_parameters": sae.W_enc.numel(),
            "bytes_on_disk": (path / SAE_WEIGHTS_FILENAME).stat().st_size,
        }

    return evaluate


def _curves(plan: Plan, folder: RunFolder, model: Any, dataset: Dataset) -> dict[str, Any]:
    """Explained variance of each TopK-like SAE at every budget up to its own."""
    names = (HIERARCHICAL, *(topk_name(k) for k in TOPK_BUDGETS))
    saes = {name: load_sae(folder.path / SAES / name, device=plan.device) for name in names}
    activations = _held_out_activations(plan, model, saes[HIERARCHICAL], dataset)
    curves = {}
    for name, sae in tqdm(saes.items(), desc="Curves over k"):
        curve = budget_curve(sae, activations, range(1, sae.cfg.k + 1))
        curves[name] = {"k": list(curve.ks), "explained_variance": list(curve.explained_variance)}
    return curves


def _held_out_activations(plan: Plan, model: Any, sae: SAE[Any], dataset: Dataset) -> torch.Tensor:
    """The activations [N, d_in] that `run_evals` measures explained variance on, special tokens left out."""
    store = _store(plan, model, sae, dataset)
    special = torch.tensor(get_special_token_ids(model.tokenizer))
    for _ in range(plan.eval_batches_ce):  # run_evals reads these first
        store.get_batch_tokens(plan.eval_batch_prompts)
    batches = []
    for _ in range(plan.eval_batches_ev):
        tokens = store.get_batch_tokens(plan.eval_batch_prompts)
        batches.append(store.get_activations(tokens)[~torch.isin(tokens.cpu(), special)])
    return torch.cat(batches)


def _store(plan: Plan, model: Any, sae: SAE[Any], dataset: Dataset) -> ActivationsStore:
    """A fresh store over the held-out contexts, so that every SAE is measured on the same tokens."""
    return ActivationsStore.from_sae(
        model,
        sae,
        dataset,
        store_batch_size_prompts=plan.eval_batch_prompts,
        total_tokens=1,
        device=plan.device,
    )

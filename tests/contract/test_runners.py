"""SAELens' runners, from a tiny model and a tiny data set to an SAE that loads by name."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import SAE, LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import LoggingConfig
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.synthetic import SyntheticModelConfig, SyntheticSAERunner, SyntheticSAERunnerConfig
from sae_lens.training.activation_scaler import ActivationScaler

from .cases import TRAINED, ArchitectureCase
from .synthetic import K, relative_error

pytestmark = pytest.mark.usefixtures("restored_signals")
trained = pytest.mark.parametrize("case", TRAINED, ids=str)
STEPS, BATCH = 12, 64
HOOK = "blocks.0.hook_resid_post"
CANONICAL_HOOK = "blocks.0.hook_out"


def settings(folder: Path, **overrides: Any) -> dict[str, Any]:
    """What both kinds of runner are told."""
    return {
        "model_name": "tiny",
        "training_tokens": STEPS * BATCH,
        "train_batch_size_tokens": BATCH,
        "context_size": 16,
        "store_batch_size_prompts": 8,
        "n_batches_in_buffer": 8,
        "n_eval_batches": 1,
        "eval_batch_size_prompts": 4,
        "n_batches_for_norm_estimate": 2,
        "exclude_special_tokens": [0],
        "lr": 3e-3,
        "model_from_pretrained_kwargs": {},
        "logger": LoggingConfig(log_to_wandb=False),
        "checkpoint_path": str(folder / "checkpoints"),
        "output_path": str(folder / "output"),
        **overrides,
    }


def runner(
    case: ArchitectureCase, model: Any, data: Dataset, folder: Path, **overrides: Any
) -> LanguageModelSAETrainingRunner:
    fields = {"hook_name": HOOK, "verbose": False, **settings(folder), **overrides}
    cfg = LanguageModelSAERunnerConfig(sae=fields.pop("sae", case.config()), **fields)
    return LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=data)


def assert_loads(case: ArchitectureCase, folder: Path, hook_name: str) -> SAE[Any]:
    loaded = SAE.load_from_disk(folder)
    assert type(loaded) is SAE_CLASS_REGISTRY[case.saved_as][0]
    assert (loaded.cfg.metadata.model_name, loaded.cfg.metadata.hook_name) == ("tiny", hook_name)
    assert (folder / "sparsity.safetensors").exists()
    assert (folder / "runner_cfg.json").exists() or (folder.parent / "runner_cfg.json").exists()
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())
    return loaded


@trained
def test_runner_trains_and_saves_on_a_hooked_transformer(case, hooked_model, token_dataset, tmp_path):
    run = runner(case, hooked_model, token_dataset, tmp_path)
    sae, x = run.run(), run.activations_store.next_batch()
    loaded = assert_loads(case, tmp_path / "output", HOOK)
    assert relative_error(loaded(x), sae.decode(case.inference_acts(sae, x))) < 1e-4


@trained
def test_runner_trains_and_saves_on_a_transformer_bridge(case, native_bridge, token_dataset, tmp_path):
    runner(case, native_bridge, token_dataset, tmp_path, hook_name=CANONICAL_HOOK).run()
    assert_loads(case, tmp_path / "output", CANONICAL_HOOK)


@trained
def test_runner_trains_in_bfloat16_with_autocast(case, hooked_model, token_dataset, tmp_path):
    precision = {"dtype": "bfloat16", "autocast": True, "sae": case.config(dtype="bfloat16")}
    runner(case, hooked_model, token_dataset, tmp_path, **precision).run()
    assert assert_loads(case, tmp_path / "output", HOOK).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        (c, m)
        for c in TRAINED
        for m in ("expected_average_only_in", "covariance_whitening")
        if m in c.normalizations
    ],
    ids=str,
)
def test_runner_folds_the_normalization_before_saving(case, mode, hooked_model, token_dataset, tmp_path):
    cfg = case.config(normalize_activations=mode)
    run = runner(case, hooked_model, token_dataset, tmp_path, sae=cfg)
    sae, x = run.run(), run.activations_store.next_batch()
    loaded = assert_loads(case, tmp_path / "output", HOOK)
    assert loaded.cfg.normalize_activations == "none"
    assert relative_error(loaded(x), sae.decode(case.inference_acts(sae, x))) < 1e-3


@trained
def test_runner_resumes_from_its_checkpoint(case, hooked_model, token_dataset, tmp_path):
    first = runner(case, hooked_model, token_dataset, tmp_path, save_final_checkpoint=True).run()
    (final,) = tmp_path.glob("checkpoints/*/final_*")
    resumed = runner(case, hooked_model, token_dataset, tmp_path, resume_from_checkpoint=str(final))
    unchanged = resumed.run()
    for name, tensor in first.state_dict().items():
        assert torch.equal(unchanged.state_dict()[name], tensor), name
    longer = {"resume_from_checkpoint": str(final), "training_tokens": 2 * STEPS * BATCH}
    moved = runner(case, hooked_model, token_dataset, tmp_path, **longer).run()
    assert not torch.equal(moved.W_enc, first.W_enc)


@trained
def test_runner_starts_from_saved_weights(case, hooked_model, token_dataset, tmp_path):
    start = case.make_trained()
    start.save_model(tmp_path / "start")
    path = str(tmp_path / "start")
    loaded = runner(case, hooked_model, token_dataset, tmp_path, from_pretrained_path=path)
    assert torch.equal(loaded.sae.W_enc, start.W_enc)
    loaded.run()
    assert_loads(case, tmp_path / "output", HOOK)


@trained
def test_runner_s_evaluator_reads_the_training_sae(case, hooked_model, token_dataset, tmp_path):
    run = runner(case, hooked_model, token_dataset, tmp_path)
    run.run()
    scaler = ActivationScaler(scaling_factor=1.5)
    metrics = run.evaluator(run.sae, iter(run.activations_store), scaler)
    numbers = {name: value for group in metrics.values() for name, value in group.items()}
    if case.predicts_error:  # a token where no feature fires is predicted as zero, which has no direction
        numbers.pop("cossim")
    assert {"ce_loss_score", "l0", "explained_variance"} <= numbers.keys()
    assert all(math.isfinite(number) for number in numbers.values()), numbers


@trained
def test_a_given_sae_is_trained_in_place(case, hooked_model, token_dataset, tmp_path):
    sae = case.make_training()
    cfg = LanguageModelSAERunnerConfig(sae=sae.cfg, hook_name=HOOK, verbose=False, **settings(tmp_path))
    run = LanguageModelSAETrainingRunner(
        cfg, override_model=hooked_model, override_dataset=token_dataset, override_sae=sae
    )
    assert run.run() is sae
    assert_loads(case, tmp_path / "output", HOOK)


def multi_runner(model: Any, data: Dataset, folder: Path, **overrides: Any) -> MultiSAETrainingRunner:
    cfg = MultiSAETrainingRunnerConfig(
        saes={case.name: case.config() for case in TRAINED}, hook_names=HOOK, **settings(folder, **overrides)
    )
    return MultiSAETrainingRunner(cfg, override_model=model, override_dataset=data)


def test_all_architectures_train_together(hooked_model, token_dataset, tmp_path):
    run = multi_runner(hooked_model, token_dataset, tmp_path)
    saes = run.run()
    assert set(saes) == {case.name for case in TRAINED}
    x = run.activations_store.next_batch()
    for case in TRAINED:
        loaded = assert_loads(case, tmp_path / "output" / case.name, HOOK)
        sae = saes[case.name]
        assert relative_error(loaded(x), sae.decode(case.inference_acts(sae, x))) < 1e-4
        assert 0 < sae.cfg.metadata.l0 <= K + 1e-4


def test_all_architectures_resume_together(hooked_model, token_dataset, tmp_path):
    first = multi_runner(hooked_model, token_dataset, tmp_path, save_final_checkpoint=True).run()
    (final,) = tmp_path.glob("checkpoints/*/final_*")
    resume = {"resume_from_checkpoint": str(final)}
    unchanged = multi_runner(hooked_model, token_dataset, tmp_path, **resume).run()
    resume["training_tokens"] = 2 * STEPS * BATCH
    moved = multi_runner(hooked_model, token_dataset, tmp_path, **resume).run()
    for name, sae in first.items():
        for key, tensor in sae.state_dict().items():
            assert torch.equal(unchanged[name].state_dict()[key], tensor), (name, key)
        assert not torch.equal(moved[name].W_enc, sae.W_enc), name


@trained
def test_the_synthetic_data_runner_trains_and_saves(case, tmp_path):
    data = SyntheticModelConfig(num_features=32, hidden_dim=case.config().d_in, seed=0)
    cfg = SyntheticSAERunnerConfig(
        synthetic_model=data,
        sae=case.config(),
        training_samples=STEPS * BATCH,
        batch_size=BATCH,
        eval_samples=256,
        checkpoint_path=None,
        output_path=str(tmp_path / "output"),
        logger=LoggingConfig(log_to_wandb=False),
    )
    result = SyntheticSAERunner(cfg).run()
    assert 0 <= result.final_eval.mcc <= 1
    assert type(SAE.load_from_disk(result.output_path)) is SAE_CLASS_REGISTRY[case.saved_as][0]

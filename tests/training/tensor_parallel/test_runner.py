"""The whole job over divided latents: the SAE that one process trains, from the same text."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, LanguageModelSAERunnerConfig, TopKSAE, TopKTrainingSAEConfig
from safetensors.torch import load_file

from sae_lens_ext.training.runner import DataParallelRunner
from sae_lens_ext.training.tensor_parallel.runner import TensorParallelRunner
from tests.contract.test_runners import BATCH, HOOK, STEPS, settings
from tests.in_ranks import in_ranks

pytestmark = pytest.mark.usefixtures("restored_signals")


def cfg(folder: Path, **overrides: Any) -> LanguageModelSAERunnerConfig[Any]:
    sae = TopKTrainingSAEConfig(d_in=16, d_sae=64, k=4)
    fields = {"hook_name": HOOK, "verbose": False, "seed": 3, "dead_feature_window": 3, **settings(folder)}
    return LanguageModelSAERunnerConfig(sae=sae, **{**fields, **overrides})


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "sae_weights.safetensors")


@pytest.fixture
def one_process(hooked_model, token_dataset, tmp_path: Path) -> Path:
    """Where one process has saved the SAE it trained."""
    folder = tmp_path / "one"
    DataParallelRunner(cfg(folder), token_dataset, hooked_model).run()
    return folder / "output"


@pytest.mark.parametrize("n", [1, 2])
def test_ranks_save_the_sae_of_one_process(
    n: int, one_process: Path, hooked_model, token_dataset, tmp_path: Path
) -> None:
    def train() -> None:
        TensorParallelRunner(cfg(tmp_path / "ours"), token_dataset, hooked_model).run()

    in_ranks(n, train)
    output = tmp_path / "ours" / "output"
    torch.testing.assert_close(parameters(output), parameters(one_process), rtol=1e-5, atol=1e-5)
    assert {path.name for path in output.iterdir()} == {path.name for path in one_process.iterdir()}
    torch.testing.assert_close(
        load_file(output / "sparsity.safetensors"), load_file(one_process / "sparsity.safetensors")
    )
    loaded = SAE.load_from_disk(output)
    assert type(loaded) is TopKSAE and loaded.cfg.d_sae == 64
    assert loaded.cfg.metadata.hook_name == HOOK


def test_four_ranks_go_on_from_a_checkpoint_of_two(
    one_process: Path, hooked_model, token_dataset, tmp_path: Path
) -> None:
    def train(folder: Path, **overrides: Any) -> None:
        TensorParallelRunner(cfg(folder, **overrides), token_dataset, hooked_model).run()

    in_ranks(2, lambda: train(tmp_path / "first", n_checkpoints=1))
    (half,) = [path for path in (tmp_path / "first" / "checkpoints").glob("*/*") if path.name.isdigit()]
    assert 0 < int(half.name) < STEPS * BATCH
    in_ranks(4, lambda: train(tmp_path / "second", resume_from_checkpoint=str(half)))
    torch.testing.assert_close(
        parameters(tmp_path / "second" / "output"), parameters(one_process), rtol=1e-5, atol=1e-5
    )


def test_from_a_pretrained_sae_each_rank_reads_its_share(
    one_process: Path, hooked_model, token_dataset, tmp_path: Path
) -> None:
    def first_weights() -> torch.Tensor:
        asked = cfg(tmp_path / "ours", from_pretrained_path=str(one_process))
        return TensorParallelRunner(asked, token_dataset, hooked_model).sae.W_dec.detach()

    found = torch.cat(in_ranks(2, first_weights))
    torch.testing.assert_close(found, parameters(one_process)["W_dec"], rtol=0, atol=0)


def test_the_configuration_is_left_as_it_is(hooked_model, token_dataset, tmp_path: Path) -> None:
    asked = cfg(tmp_path)
    before = copy.deepcopy(asked.to_dict())
    TensorParallelRunner(asked, token_dataset, hooked_model).run()
    assert asked.to_dict() == before


def test_compiling_a_divided_sae_is_refused(hooked_model, token_dataset, tmp_path: Path) -> None:
    def refused() -> None:
        with pytest.raises(ValueError, match="compile_sae = True is not done where latents are divided"):
            TensorParallelRunner(cfg(tmp_path, compile_sae=True), token_dataset, hooked_model)

    in_ranks(2, refused)


def test_that_nothing_is_evaluated_is_said(
    hooked_model, token_dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = TensorParallelRunner(cfg(tmp_path), token_dataset, hooked_model)
    run.cfg.logger.log_to_wandb = True
    with caplog.at_level(logging.WARNING):
        assert run._evaluator(None) is None
    assert "Nothing is evaluated while the latents are divided" in caplog.text

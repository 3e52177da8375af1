"""The data parallel runner against SAELens' runner, over ranks, interrupted and taken up again."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAEConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    TopKSAE,
    TopKTrainingSAE,
)
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.training.sae_trainer import SAETrainer
from sae_lens.util import temporary_seed
from safetensors.torch import load_file

from sae_lens_ext import HierarchicalTopKTrainingSAEConfig, KronTrainingSAEConfig
from sae_lens_ext.ranks import current_ranks
from sae_lens_ext.training.runner import DataParallelRunner
from tests.analysis.seeds.tiny import BATCH, STEPS, equal_weights, single, topk
from tests.in_ranks import in_ranks

SAES = {
    "topk": topk(),
    "hierarchical_topk": HierarchicalTopKTrainingSAEConfig(d_in=16, d_sae=32, k=4),
    "kron": KronTrainingSAEConfig(d_in=16, d_sae=32, k=4, base_dim=2, extension_dim=4),
    "normalised": topk(normalize_activations="expected_average_only_in"),
}


@pytest.fixture
def run(hooked_model, token_dataset, restored_signals) -> Any:
    """Trains by the data parallel runner, or by another class."""

    def train(cfg: Any, runner: Any = DataParallelRunner) -> Any:
        return runner(cfg, override_model=hooked_model, override_dataset=token_dataset).run()

    return train


def weights(sae: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in sae.state_dict().items()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sends SIGINT to this process once, in the middle of a step."""

    def arm(after: int) -> None:
        steps: list[int] = []
        step = SAETrainer.step

        def stepping(trainer: Any, batch: torch.Tensor) -> Any:
            steps.append(1)
            if len(steps) == after:
                os.kill(os.getpid(), signal.SIGINT)
            return step(trainer, batch)

        monkeypatch.setattr(SAETrainer, "step", stepping)

    return arm


@pytest.mark.parametrize("name", SAES)
def test_one_process_is_saelens_runner_with_its_seed_obeyed(run, name: str, tmp_path: Path) -> None:
    cfg = single(tmp_path / "ours", SAES[name], seed=7)
    found = run(cfg)

    class Seeded(LanguageModelSAETrainingRunner):
        def __init__(self, cfg: Any, **options: Any) -> None:
            with temporary_seed(7):
                super().__init__(cfg, **options)

    with temporary_seed(7):
        expected = run(single(tmp_path / "saelens", SAES[name]), Seeded)
    assert equal_weights(found, expected)
    assert equal_weights(*(SAE.load_from_disk(tmp_path / who) for who in ("ours", "saelens")))
    assert cfg.device == "cpu" and cfg.output_path == str(tmp_path / "ours")


@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("n", [2, 4])
def test_ranks_train_the_sae_of_one_process_and_save_it_once(run, name: str, n: int, tmp_path: Path) -> None:
    expected = weights(run(single(tmp_path / "one", SAES[name])))

    def train() -> dict[str, torch.Tensor]:
        return weights(run(single(tmp_path / "many", SAES[name])))

    found = in_ranks(n, train)
    for other in found:
        assert all(torch.equal(other[key], found[0][key]) for key in other)
    assert_close(found[0], expected)
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
    assert_close(
        weights(SAE.load_from_disk(tmp_path / "many")), weights(SAE.load_from_disk(tmp_path / "one"))
    )


def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_the_run_ends_as_if_it_had_not(
    run, interrupted, tmp_path: Path
) -> None:
    expected = weights(run(single(tmp_path / "one", n_checkpoints=2)))

    def train(start: str | None = None) -> Any:
        if start is None and current_ranks().rank == 1:
            interrupted(4)
        cfg = single(
            tmp_path / "many", checkpoint_path=str(tmp_path / "checkpoints"), resume_from_checkpoint=start
        )
        try:
            return weights(run(cfg))
        except InterruptedException:
            return [str(path) for path in (tmp_path / "checkpoints").glob("*/*")]

    first, second = in_ranks(2, train)
    assert first == second and len(first) == 1 and first[0].endswith(f"/{4 * BATCH}")
    for found in in_ranks(2, train, first[0]):
        assert_close(found, expected)
    one = run(single(tmp_path / "after", resume_from_checkpoint=first[0]))
    assert_close(weights(one), expected)


@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("after", [1, 5])
def test_one_process_taken_up_again_ends_as_if_it_had_not_been_interrupted(
    run, interrupted, name: str, prefetch: bool, after: int, tmp_path: Path
) -> None:
    def cfg(folder: str, start: Path | None = None) -> Any:
        return single(
            tmp_path / folder,
            SAES[name],
            prefetch_llm_batches=prefetch,
            checkpoint_path=str(tmp_path / "checkpoints"),
            resume_from_checkpoint=None if start is None else str(start),
        )

    expected = run(cfg("whole"))
    interrupted(after)
    with pytest.raises(InterruptedException):
        run(cfg("parts"))
    (checkpoint,) = (tmp_path / "checkpoints").glob(f"*/{after * BATCH}")
    assert equal_weights(run(cfg("parts", checkpoint)), expected)


def test_a_restart_goes_on_from_the_job_s_last_whole_checkpoint(
    run, interrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cfg() -> Any:
        return single(tmp_path / "sae", n_checkpoints=4, checkpoint_path=str(tmp_path / "checkpoints"))

    expected = run(single(tmp_path / "whole"))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "my_job")
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(SAETrainer, "_update_pbar", failing_at(7))
    with pytest.raises(OSError, match="killed"):
        run(cfg())
    monkeypatch.undo()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "my_job")
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    (folder,) = (path for path in (tmp_path / "checkpoints").iterdir() if path.is_dir())
    assert sorted(int(path.name) for path in folder.iterdir()) == [192, 320, 448]
    (folder / "448" / "trainer_state.pt").write_bytes(b"torn")
    taken: list[int] = []
    step = SAETrainer.step
    monkeypatch.setattr(SAETrainer, "step", lambda *a: (taken.append(1), step(*a))[1])
    assert equal_weights(run(cfg()), expected)
    assert len(taken) == STEPS - 5
    assert json.loads((tmp_path / "checkpoints/.job_my_job.json").read_text()) == {"folder": folder.name}


@pytest.fixture
def started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torchrun had started this process for the second time, under the id that it gives by default."""
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    for name, value in {"RUN_ID": "none", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    monkeypatch.setenv("WORLD_SIZE", "1")


def test_a_restart_does_not_take_another_job_s_checkpoints(run, started_anew, tmp_path: Path) -> None:
    """Jobs without an id are told apart by their launchers."""
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "theirs").mkdir(parents=True)
    (checkpoints / ".job_of_elsewhere_1.json").write_text('{"folder": "theirs"}')
    (checkpoints / ".job_none.json").write_text('{"folder": "theirs"}')
    expected = run(single(tmp_path / "one"))
    assert equal_weights(run(single(tmp_path / "sae", checkpoint_path=str(checkpoints))), expected)


def test_a_restart_does_not_go_on_from_another_training(
    run, started_anew, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "my_job")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    checkpoints = str(tmp_path / "checkpoints")
    run(single(tmp_path / "first", n_checkpoints=2, checkpoint_path=checkpoints))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(
        ValueError, match="is one of a training with another lr, lr_end, n_checkpoints, sae. Give jobs that"
    ):
        run(single(tmp_path / "second", topk(k=3), lr=1e-3, checkpoint_path=checkpoints))
    assert not (tmp_path / "second").exists()


def test_an_interruption_before_the_first_step_leaves_no_checkpoint(
    run, hooked_model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_with_cache = hooked_model.run_with_cache
    passes: list[int] = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        passes.append(1)
        if len(passes) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return run_with_cache(*arguments, **options)

    monkeypatch.setattr(hooked_model, "run_with_cache", interrupted)
    with pytest.raises(InterruptedException):
        run(single(tmp_path / "sae", SAES["normalised"], checkpoint_path=str(tmp_path / "checkpoints")))
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_whose_weights_are_nan_is_saved_as_saelens_saves_it(run, tmp_path: Path, monkeypatch) -> None:
    original = TopKTrainingSAE.initialize_weights

    def initialize(self: Any) -> None:
        original(self)
        self.W_dec.data[3] = float("nan")

    monkeypatch.setattr(TopKTrainingSAE, "initialize_weights", initialize)
    run(single(tmp_path / "sae", n_checkpoints=1, checkpoint_path=str(tmp_path / "checkpoints")))
    assert len(list((tmp_path / "checkpoints").glob("*/*"))) == 1


def test_cached_activations_obey_the_seed(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = torch.randn(64, 16, 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(ActivationsStore, "load_cached_activation_dataset", lambda _: rows)
    place: list[int] = []

    def read(_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        place.append(1)
        return rows[len(place) % 8 * 8 :][:8].flatten(0, 1), None

    monkeypatch.setattr(ActivationsStore, "get_raw_llm_batch", read)
    found = []
    for name in ("a", "b"):
        place.clear()
        torch.manual_seed(ord(name))
        cached = {"use_cached_activations": True, "cached_activations_path": "there"}
        found.append(run(single(tmp_path / name, **cached)))
    assert equal_weights(*found)


class Logged:
    """What is given to Weights and Biases."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[dict[str, Any]] = []
        for name in ("init", "finish", "Histogram"):
            monkeypatch.setattr(f"wandb.{name}", lambda *_, **__: None)
        monkeypatch.setattr("wandb.log", lambda line, **_: self.lines.append(line))
        monkeypatch.setattr(LoggingConfig, "log", lambda *_, **__: None)


@pytest.mark.parametrize("name", ["topk", "batchtopk"])
def test_the_first_rank_logs_and_evaluates_without_the_others(
    run, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sae = topk() if name == "topk" else BatchTopKTrainingSAEConfig(d_in=16, d_sae=32, k=4)

    def cfg(folder: str, log: bool) -> Any:
        logger = LoggingConfig(log_to_wandb=log, wandb_log_frequency=2, eval_every_n_wandb_logs=2)
        return single(tmp_path / folder, sae, logger=logger, n_eval_batches=1, eval_batch_size_prompts=2)

    expected = run(cfg("one", False))

    def train() -> tuple[dict[str, torch.Tensor], list[str]]:
        logged = Logged(monkeypatch)
        found = run(cfg("many", True))
        return weights(found), [key for line in logged.lines for key in line]

    (first, keys), (second, none) = in_ranks(2, train)
    assert none == [] and keys.count("losses/overall_loss") == STEPS // 2
    assert "model_performance_preservation" in keys
    assert_close(first, weights(expected))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_windows_of_firing_counts_end_where_they_would_have_ended(run, tmp_path: Path) -> None:
    """A checkpoint on the way says that one step fewer was taken than it holds."""
    settings = {
        "n_checkpoints": 4,
        "feature_sampling_window": 4,
        "checkpoint_path": str(tmp_path / "checkpoints"),
    }
    run(single(tmp_path / "whole", **settings))
    (checkpoint,) = (tmp_path / "checkpoints").glob(f"*/{3 * BATCH}")
    run(single(tmp_path / "part", **{**settings, "n_checkpoints": 0}, resume_from_checkpoint=str(checkpoint)))
    sparsity = [load_file(tmp_path / name / "sparsity.safetensors")["sparsity"] for name in ("whole", "part")]
    assert torch.equal(*sparsity)
    l0 = [SAE.load_from_disk(tmp_path / name).cfg.metadata.l0 for name in ("whole", "part")]
    assert l0[0] == l0[1]


def failing_at(step: int) -> Any:
    def failing(trainer: Any, *_: Any) -> None:
        if trainer.n_training_steps == step:
            raise OSError("killed")

    return failing


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"train_batch_size_tokens": 63},
            "train_batch_size_tokens = 63 cannot be divided evenly over 2 ranks",
        ),
        ({"prefetch_llm_batches": True}, "prefetch_llm_batches = True is not done over 2 ranks"),
    ],
)
def test_what_ranks_cannot_do_is_refused(
    run, tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    def train() -> str:
        with pytest.raises(ValueError) as caught:
            run(single(tmp_path / "sae", **overrides))
        return str(caught.value)

    assert all(message in said for said in in_ranks(2, train))
    assert not (tmp_path / "sae").exists()


def test_ranks_save_an_sae_that_saelens_loads(run, tmp_path: Path) -> None:
    in_ranks(2, lambda: weights(run(single(tmp_path, SAES["hierarchical_topk"]))))
    assert isinstance(SAE.load_from_disk(tmp_path), TopKSAE)

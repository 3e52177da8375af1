"""Runs of `train_seeds` that are interrupted and taken up again, and folders that are not its own."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_ext import train_seeds
from sae_lens_ext.training.interruption import InterruptBetweenSteps
from tests.cli.interrupting import interrupt_once

from .tiny import BATCH, EVERY_VARY, STEPS, equal_weights, rows, single, topk

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def python_s_own_handler(restored_signals) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def signal_in_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sends a signal once, in the middle of a step: after so many single SAEs' steps."""

    def arm(after: int, number: int = signal.SIGINT) -> None:
        taken: list[int] = []
        step = SAETrainer.step

        def stepping(trainer: Any, batch: torch.Tensor) -> Any:
            taken.append(1)
            if len(taken) == after:
                os.kill(os.getpid(), number)
            return step(trainer, batch)

        monkeypatch.setattr(SAETrainer, "step", stepping)

    return arm


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints/saes/run").iterdir())


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("prefetch", [False, True])
def test_an_interrupted_run_saves_all_saes_after_the_same_step_and_goes_on(
    train, seen, signal_in_step, tmp_path: Path, number: int, prefetch: bool
) -> None:
    signal_in_step(7, number)  # the first of two SAEs in the fourth step
    handlers = [signal.getsignal(name) for name in SIGNALS]
    state = torch.get_rng_state()
    cfg = single(tmp_path, prefetch_llm_batches=prefetch)
    with pytest.raises(InterruptedException):
        train(cfg, range(2))
    assert [signal.getsignal(name) for name in SIGNALS] == handlers
    assert torch.equal(torch.get_rng_state(), state)
    assert checkpoints(tmp_path) == [4 * BATCH] and [len(stream) for stream in seen.streams] == [4, 4]
    assert not (tmp_path / "seed_0").exists()
    saved = [torch.load(tmp_path / f"checkpoints/saes/run/256/seed_{i}/trainer_state.pt") for i in range(2)]
    assert [(s["n_training_samples"], s["n_training_steps"]) for s in saved] == [(256, 4)] * 2

    saes = train(cfg, range(2))
    assert [len(stream) for stream in seen.streams] == [4, 4, STEPS - 4, STEPS - 4]
    assert torch.equal(seen.streams[2], seen.streams[3])
    assert json.loads((tmp_path / "trained/saes.json").read_text())["resumed"] is True
    assert not (tmp_path / "checkpoints/saes").exists()
    assert not equal_weights(*saes)


@pytest.mark.parametrize("vary", EVERY_VARY)
@pytest.mark.parametrize("after", [3, 6, 8])  # in the first pool of six batches, at its end, in the second
@pytest.mark.parametrize(
    "overrides", [{}, {"prefetch_llm_batches": True}, {"normalize_activations": "expected_average_only_in"}]
)
def test_a_run_taken_up_again_ends_as_if_it_had_not_been_interrupted(
    train, signal_in_step, tmp_path: Path, vary: str, after: int, overrides: dict[str, Any]
) -> None:
    def cfg(folder: str) -> Any:
        runner = {name: value for name, value in overrides.items() if name == "prefetch_llm_batches"}
        return single(tmp_path / folder, topk(**({} if runner else overrides)), **runner)

    expected = train(cfg("whole"), range(2), vary=vary)
    signal_in_step(2 * after)
    with pytest.raises(InterruptedException):
        train(cfg("parts"), range(2), vary=vary)
    assert checkpoints(tmp_path / "parts") == [after * BATCH]
    found = train(cfg("parts"), range(2), vary=vary)
    assert all(equal_weights(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_a_run_interrupted_while_the_model_runs_stops_at_once(
    train, hooked_model, monkeypatch, tmp_path: Path, vary: str
) -> None:
    passes: list[int] = []
    run_with_cache = hooked_model.run_with_cache

    def interrupted(*arguments: Any, **options: Any) -> Any:
        passes.append(1)
        if len(passes) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return run_with_cache(*arguments, **options)

    monkeypatch.setattr(hooked_model, "run_with_cache", interrupted)
    cfg = single(tmp_path, topk(normalize_activations="expected_average_only_in"))
    with pytest.raises(InterruptedException):
        train(cfg, range(2), vary=vary)
    assert len(passes) == 3
    assert len(train(cfg, range(2), vary=vary)) == 2


def test_an_interrupt_in_the_last_step_comes_after_all_is_saved(train, signal_in_step, tmp_path) -> None:
    signal_in_step(2 * STEPS - 1)
    with pytest.raises(KeyboardInterrupt):  # from Python's own handler
        train(single(tmp_path), range(2))
    assert len(train_seeds(single(tmp_path), range(2))) == 2  # needs no model: nothing is trained again


def test_checkpoints_on_the_way_are_written_once_each(train, signal_in_step, tmp_path: Path) -> None:
    cfg = single(tmp_path, n_checkpoints=4)
    signal_in_step(2 * 6)
    with pytest.raises(InterruptedException):
        train(cfg, range(2), keep_checkpoints=True)
    assert checkpoints(tmp_path) == [BATCH * step for step in (3, 5, 6)]
    train(cfg, range(2), keep_checkpoints=True)
    assert checkpoints(tmp_path) == [BATCH * step for step in (3, 5, 6, 7, 9)]
    train(cfg, range(2))
    assert checkpoints(tmp_path) == [BATCH * step for step in (3, 5, 6, 7, 9)]


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_a_crashed_run_goes_on_from_a_checkpoint_on_the_way(train, seen, tmp_path, monkeypatch, vary) -> None:
    cfg = single(tmp_path, topk(normalize_activations="expected_average_only_in"), n_checkpoints=1)
    with monkeypatch.context() as patch:
        interrupt_once(patch, MultiSAETrainer, after=8)
        patch.setattr(MultiSAETrainer, "save_checkpoint", failing_after_one(MultiSAETrainer.save_checkpoint))
        with pytest.raises(OSError, match="no space left"):
            train(cfg, range(2), vary=vary)
    train(cfg, range(2), vary=vary)
    assert [len(stream) for stream in seen.streams] == [8, 8, 4, 4]  # the checkpoint is of the sixth step
    assert len(set(seen.scales)) == 1
    assert rows(seen.streams[2]) == rows(seen.streams[3])


def failing_after_one(save: Any) -> Any:
    saved: list[int] = []

    def failing(trainer: Any, **options: Any) -> None:
        if saved:
            raise OSError("no space left")
        saved.append(1)
        save(trainer, **options)

    return failing


def test_a_finished_run_is_loaded_and_not_trained_again(train, seen, tmp_path: Path) -> None:
    saes = train(single(tmp_path), range(2))
    before = contents(tmp_path)
    again = train_seeds(single(tmp_path), range(2))  # no model named "tiny" could be loaded
    assert all(equal_weights(a, b) for a, b in zip(saes, again, strict=True))
    assert len(seen.streams) == 2 and contents(tmp_path) == before


def test_a_device_that_sae_lens_writes_otherwise_is_no_other_setting(train, tmp_path: Path) -> None:
    train(single(tmp_path, topk(device="cpu:0")), range(2))
    assert len(train_seeds(single(tmp_path, topk(device="cpu:0")), range(2))) == 2


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"lr": 0.5}, {}, "lr was 0.003, now 0.5"),
        ({}, {"vary": "both"}, "vary was 'initialisation', now 'both'"),
        ({}, {"seeds": [0, 2]}, "seeds was {'seed_0': 0, 'seed_1': 1}, now {'seed_0': 0, 'seed_2': 2}"),
        ({}, {"seeds": [1, 0]}, "seeds was {'seed_0': 0, 'seed_1': 1}, now {'seed_1': 1, 'seed_0': 0}"),
        ({"sae": topk(k=2)}, {}, "saes was "),
    ],
)
def test_a_run_of_other_settings_refuses_the_folder(train, tmp_path, change, options, said: str) -> None:
    train(single(tmp_path), range(2))
    before = contents(tmp_path)
    with pytest.raises(ValueError) as refusal:
        train(single(tmp_path, **change), **{"seeds": range(2), **options})
    assert said in str(refusal.value)
    assert str(refusal.value).startswith(f"{tmp_path} holds a run of train_seeds with other settings (")
    assert str(refusal.value).endswith(
        "which was left as it is. Give another folder, or delete that one to start anew."
    )
    assert contents(tmp_path) == before


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(train, seen, tmp_path: Path) -> None:
    (tmp_path / "seed_0").mkdir()
    (tmp_path / "seed_0" / "thesis.tex").write_text("precious")
    with pytest.raises(
        ValueError,
        match="exists, is not empty and is not a folder of train_seeds .* nothing was written there",
    ):
        train(single(tmp_path), range(2))
    with pytest.raises(ValueError, match="thesis.tex is a file. Give a folder"):
        train(single(tmp_path / "seed_0" / "thesis.tex"), range(2))
    assert contents(tmp_path) == {"seed_0/thesis.tex": b"precious"} and not seen.streams


def test_the_configuration_is_left_as_it_is(train, tmp_path: Path) -> None:
    cfg = single(tmp_path)
    before = json.dumps(cfg.to_dict())
    train(cfg, range(2), vary="both")
    assert json.dumps(cfg.to_dict()) == before


def test_InterruptBetweenSteps_raises_only_while_a_batch_is_waited_for() -> None:
    interrupt = InterruptBetweenSteps()
    with pytest.raises(InterruptedException), interrupt.watching():
        stream = interrupt.between_steps(iter("abc"))
        assert next(stream) == "a"
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        next(stream)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    early = InterruptBetweenSteps()
    with pytest.raises(InterruptedException), early.watching():
        signal.raise_signal(signal.SIGINT)  # before the first step: nothing is broken off

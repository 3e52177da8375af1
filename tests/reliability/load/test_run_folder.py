"""Two processes in one output folder: one works, the other says so and writes nothing."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_ext import train_language_model, train_seeds, train_steering_vectors
from sae_lens_ext.folder_lock import FolderInUseError
from sae_lens_ext.run_folder import RunFolder
from tests.analysis.seeds.tiny import single
from tests.reliability.load.processes import Held, at_once

SETTINGS = {"what": "a test", "steps": 3}


def run_folder(path: Path, **others: Any) -> RunFolder:
    return RunFolder(path, {**SETTINGS, **others}, "a test")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def occupied(tmp_path: Path):
    """A folder in which another process works, and that process."""

    def work(stay: Any) -> None:
        with run_folder(tmp_path / "run").working():
            stay()

    held = Held(work)
    yield tmp_path / "run", held
    held.let_go()


def test_a_second_process_is_told_who_works_in_the_folder_and_writes_nothing(occupied) -> None:
    folder, held = occupied
    before = files(folder)
    with pytest.raises(FolderInUseError) as caught, run_folder(folder).working():
        raise AssertionError("two work at once")
    assert (
        f"Another process (pid {held.pid} on {socket.gethostname()}) works in the folder '{folder}'"
        in str(caught.value)
    )
    assert "so nothing was written there" in str(caught.value)
    assert files(folder) == before


def test_a_folder_is_free_when_its_process_has_ended(occupied) -> None:
    folder, held = occupied
    held.let_go()
    assert held.process.exitcode == 0
    with run_folder(folder).working():
        assert run_folder(folder).plan == SETTINGS


def test_a_folder_is_free_when_its_process_was_killed(occupied) -> None:
    folder, held = occupied
    held.kill()
    with run_folder(folder).working():
        assert str(os.getpid()) in (folder / ".working.json").read_text()
    assert not (folder / ".working.json").exists()


def test_a_folder_is_free_after_an_error_in_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path).working():
        raise ZeroDivisionError
    with run_folder(tmp_path).working():
        pass


def test_a_lock_alone_does_not_make_a_folder_somebody_elses(tmp_path: Path) -> None:
    for name in (".working.lock", ".working.json"):
        (tmp_path / name).touch()
    with run_folder(tmp_path).working():
        pass


def test_results_are_read_while_another_process_works(occupied) -> None:
    folder, _ = occupied
    assert run_folder(folder).training_seconds("stage") == 0.0
    assert not run_folder(folder).is_trained("stage")


@pytest.mark.parametrize("same_plan", [True, False])
def test_of_processes_that_begin_at_once_one_works(same_plan: bool, tmp_path: Path) -> None:
    n, entered = 6, tmp_path / "entered"
    entered.mkdir()

    def work(i: int) -> str:
        run = run_folder(tmp_path / "run", **({} if same_plan else {"seed": i}))
        with run.working():
            (entered / str(i)).touch()
            assert len(list(entered.iterdir())) == 1 or same_plan
            (tmp_path / "run" / "result").write_text(str(i))
            assert (tmp_path / "run" / "result").read_text() == str(i)
        return "worked"

    said = at_once(n, work, tmp_path / "said")
    assert "worked" in said
    refusals = ("FolderInUseError: Another process", "ValueError: ")
    assert all(one == "worked" or one.startswith(refusals) for one in said), said
    if not same_plan:
        assert said.count("worked") == 1


def _train_seeds(model: Any, dataset: Any, folder: Path) -> Any:
    cfg = single(folder)
    return lambda: train_seeds(cfg, range(2), override_model=model, override_dataset=dataset)


def _train_vectors(model: Any, _: Any, folder: Path) -> Any:
    return lambda: train_steering_vectors(
        model,
        ["w1 w2", "w3 w4"],
        lambda prompt, completion: float(len(completion) % 3),
        group_size=2,
        max_new_tokens=2,
        steps=2,
        folder=folder,
        show_progress=False,
    )


def _train_language_model(model: Any, _: Any, folder: Path) -> Any:
    tokens = torch.randint(2, 32, (16, 16), generator=torch.Generator().manual_seed(0))
    return lambda: train_language_model(model, tokens, folder=folder, show_progress=False)


@pytest.mark.parametrize("training", [_train_seeds, _train_vectors, _train_language_model])
def test_trainings_refuse_a_folder_another_process_trains_in_and_go_on_when_it_is_gone(
    training: Any,
    hooked_model: Any,
    token_dataset: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    restored_signals: None,
) -> None:
    folder = tmp_path / "run"
    train = training(hooked_model, token_dataset, folder)
    claim = RunFolder.claim

    def first(stay: Any) -> None:
        def claiming(run: RunFolder) -> None:
            claim(run)
            stay()

        monkeypatch.setattr(RunFolder, "claim", claiming)
        train()

    held = Held(first)
    before = files(folder)
    with pytest.raises(FolderInUseError, match=rf"Another process \(pid {held.pid} on "):
        train()
    assert files(folder) == before
    held.kill()
    train()
    assert len(files(folder)) > len(before)

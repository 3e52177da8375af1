"""`sae-lens-ext train` in several processes: `--parallel`, `--seeds`, and what they refuse; and that one process repeats itself."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file
from tqdm.std import tqdm

from sae_lens_ext.cli import seeds, train
from tests.cli.test_train import words
from tests.cli.test_under_torchrun import command
from tests.in_ranks import in_ranks

# SAELens' runner writes these keyword arguments into the metadata of everything it trains on a HookedTransformer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:\\nThis SAE has non-empty model_from_pretrained_kwargs:UserWarning"
)

TOPK = ["--architecture", "topk", "--k", "4"]
ONE_BUDGET = ["--architecture", "hierarchical_topk", "--k", "4", "--sae.budgets", "4"]
KRON = ["--architecture", "kron", "--k", "4", "--sae.extension_dim", "3"]
BOTH_WAYS = pytest.mark.parametrize(
    ("parallel", "architecture"),
    [("data", KRON), ("tensor", ONE_BUDGET), ("tensor", TOPK)],
    ids=["data-kron", "tensor-hierarchical_topk", "tensor-topk"],
)


@pytest.fixture(autouse=True)
def tiny_world(monkeypatch: pytest.MonkeyPatch, hooked_model, token_dataset, restored_signals) -> None:
    for verb in (train, seeds):
        monkeypatch.setattr(verb, "load_language_model", lambda *_: hooked_model)
        monkeypatch.setattr(verb, "load_dataset", lambda _: token_dataset)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a saved SAE."""
    return load_file(folder / "sae_weights.safetensors")


def assert_close(found: Path, expected: Path) -> None:
    torch.testing.assert_close(trained(found), trained(expected), rtol=1e-5, atol=1e-5)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows progress, which tests otherwise do without."""
    shown = tqdm.__init__
    monkeypatch.setattr(tqdm, "__init__", lambda bar, *a, **k: shown(bar, *a, **{"disable": False, **k}))


@BOTH_WAYS
def test_two_ranks_save_the_sae_of_one_process_and_the_first_shows_progress(
    tmp_path: Path, bars, parallel: str, architecture: list[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert command(*words(one, *architecture))[0] == 0
    first, second = in_ranks(2, lambda: command(*words(two, *architecture, "--parallel", parallel)))
    assert first[0] == 0 and "Training SAE" in first[2] and second == (0, "", "")
    assert_close(two, one)
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


def test_ranks_divide_the_batch_if_nothing_else_is_asked_for(tmp_path: Path) -> None:
    asked = in_ranks(2, lambda: command(*words(tmp_path / "asked", *KRON, "--parallel=data")))
    not_asked = in_ranks(2, lambda: command(*words(tmp_path / "not_asked", *KRON)))
    assert [status for status, _, _ in asked + not_asked] == [0, 0, 0, 0]
    torch.testing.assert_close(trained(tmp_path / "not_asked"), trained(tmp_path / "asked"), rtol=0, atol=0)


@pytest.mark.parametrize("parallel", ["data", "tensor"])
def test_one_process_may_name_a_way_to_divide_and_trains_the_same_sae(tmp_path: Path, parallel: str) -> None:
    assert command(*words(tmp_path / "plain", *TOPK))[0] == 0
    assert command(*words(tmp_path / parallel, *TOPK, "--parallel", parallel))[0] == 0
    assert_close(tmp_path / parallel, tmp_path / "plain")


@pytest.mark.parametrize(("parallel", "architecture"), [("data", KRON), ("tensor", TOPK)])
def test_one_process_goes_on_from_a_checkpoint_of_two_ranks(
    tmp_path: Path, parallel: str, architecture: list[str]
) -> None:
    in_peace, two, going_on = (tmp_path / name / "sae" for name in ("in_peace", "two", "going_on"))
    assert command(*words(in_peace, *architecture))[0] == 0
    flags = [*architecture, "--n_checkpoints", "2", "--parallel", parallel]
    assert [status for status, _, _ in in_ranks(2, lambda: command(*words(two, *flags)))] == [0, 0]

    start = min((two.parent / "checkpoints").glob("*/*/"), key=lambda path: int(path.name))
    assert 0 < int(start.name) < 512
    assert command(*words(going_on, *architecture, "--resume_from_checkpoint", str(start)))[0] == 0
    assert_close(going_on, in_peace)


def test_seeds_divided_over_two_ranks_are_those_of_one_process_to_the_bit(tmp_path: Path) -> None:
    flags = [*TOPK, "--seeds", "0,1,7"]
    assert command(*words(tmp_path / "one", *flags))[0] == 0
    first, second = in_ranks(2, lambda: command(*words(tmp_path / "two", *flags)))
    assert first[0] == 0 and second == (0, "", "")
    for seed in (0, 1, 7):
        one, two = (trained(tmp_path / n / f"seed_{seed}") for n in ("one", "two"))
        torch.testing.assert_close(two, one, rtol=0, atol=0)


def test_the_same_command_twice_gives_the_same_sae_to_the_bit_and_another_seed_another(
    tmp_path: Path,
) -> None:
    found = {}
    for name, flags in {"first": [], "again": [], "other": ["--seed", "1"]}.items():
        torch.manual_seed(len(found))  # what was drawn before does not matter
        assert command(*words(tmp_path / name, *KRON, *flags))[0] == 0
        found[name] = trained(tmp_path / name)
    torch.testing.assert_close(found["again"], found["first"], rtol=0, atol=0)
    assert not torch.equal(found["other"]["W_dec"], found["first"]["W_dec"])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--parallel", "pipeline"], "--parallel 'pipeline' is not understood. Give one of data, tensor."),
        (["--parallel"], "--parallel has no value. Give one of data, tensor."),
        (
            ["--parallel", "data", "--parallel=tensor"],
            "--parallel is given 2 times, data and tensor. Give it once.",
        ),
        (
            ["--parallel", "tensor", "--seeds", "0,1"],
            "--parallel tensor divides the training of one SAE, but there are --seeds, which are divided as they are. Leave one of the two out.",
        ),
    ],
)
def test_a_way_to_divide_that_is_wrong_is_told_in_one_sentence(
    tmp_path: Path, flags: list[str], complaint: str
) -> None:
    expected = (1, "", f"sae-lens-ext: error: {complaint}\n")
    assert command(*words(tmp_path / "sae", *TOPK, *flags)) == expected
    assert not (tmp_path / "sae").exists()


@pytest.mark.parametrize(
    ("architecture", "complaint"),
    [
        (KRON, "KronTrainingSAEConfig describes an SAE whose latents cannot be divided over ranks."),
        (
            ["--architecture", "hierarchical_topk", "--k", "4", "--sae.budgets", "2", "4"],
            "HierarchicalTopKTrainingSAEConfig.budgets = (2, 4) names several budgets",
        ),
    ],
)
def test_latents_that_cannot_be_divided_are_refused_by_every_rank(
    tmp_path: Path, architecture: list[str], complaint: str
) -> None:
    flags = [*architecture, "--parallel", "tensor"]
    found = in_ranks(2, lambda: command(*words(tmp_path / "sae", *flags)))
    for (status, out, err), name in zip(found, ["sae-lens-ext", "sae-lens-ext [rank 1]"], strict=True):
        assert (status, out) == (1, "")
        assert err.startswith(f"{name}: error: {complaint}") and err.count("\n") == 1
        assert "divide the batch instead of the latents." in err
    assert not (tmp_path / "sae").exists()


def test_a_batch_that_ranks_cannot_share_evenly_is_refused(tmp_path: Path) -> None:
    for status, out, err in in_ranks(3, lambda: command(*words(tmp_path / "sae", *TOPK))):
        assert (status, out) == (1, "")
        assert "train_batch_size_tokens = 64 cannot be divided evenly over 3 ranks" in err


def test_help_is_printed_once() -> None:
    first, second = in_ranks(2, lambda: command("train", "--architecture", "kron", "--help"))
    assert first[0] == 0 and second == (0, "", "")
    assert first[1].count("--parallel HOW    under torchrun") == 1
    assert "--train_batch_size_tokens" in first[1]


@pytest.mark.parametrize("value", ["soon", "0", "nan", ""])
def test_a_time_that_is_none_is_told_before_ranks_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, content in {**torchrun, "SAE_LENS_EXT_RANK_TIMEOUT": value}.items():
        monkeypatch.setenv(name, content)
    complaint = f"SAE_LENS_EXT_RANK_TIMEOUT is {value!r}. Give the seconds that a rank waits for the others, such as 600."
    expected = (1, "", f"sae-lens-ext: error: {complaint}\n")
    assert command(*words(tmp_path / "sae", *TOPK)) == expected


def test_the_time_that_ranks_wait_does_not_matter_to_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAE_LENS_EXT_RANK_TIMEOUT", "soon")
    assert command(*words(tmp_path / "sae", *TOPK))[0] == 0


@pytest.mark.parametrize(
    ("flags", "saved"),
    [
        (KRON, "Saved. Go on with --resume_from_checkpoint "),
        (
            [*TOPK, "--seeds", "0,1"],
            "The same command goes on from the last checkpoint.\n",
        ),
    ],
    ids=["data", "seeds"],
)
def test_how_to_go_on_is_told_once_whichever_rank_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], saved: str
) -> None:
    steps: list[int] = []
    step = SAETrainer.step

    def stepping(trainer: Any, batch: torch.Tensor) -> Any:
        steps.append(1)
        if len(steps) == 3 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, batch)

    monkeypatch.setattr(SAETrainer, "step", stepping)
    first, second = in_ranks(2, lambda: command(*words(tmp_path / "sae", *flags)))
    assert first[:2] == (130, "") and first[2].startswith(saved)
    assert first[2].endswith("sae-lens-ext: interrupted.\n")
    assert second == (130, "", "")

"""`sae-lens-ext train` with a tiny model: every architecture of ours is trained, saved and loads by name."""

import os
import re
import signal
from pathlib import Path

import pytest
from sae_lens import SAE, JumpReLUSAE, TopKSAE
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_ext import KronSAE
from sae_lens_ext.cli import main, train
from tests.architectures.bases import base_sae

HOOK = "blocks.1.hook_resid_post"

# SAELens' runner writes these keyword arguments into the metadata of everything it trains on a HookedTransformer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:\\nThis SAE has non-empty model_from_pretrained_kwargs:UserWarning"
)


@pytest.fixture(autouse=True)
def tiny_world(monkeypatch: pytest.MonkeyPatch, hooked_model, token_dataset, restored_signals) -> None:
    monkeypatch.setattr(train, "load_language_model", lambda *_: hooked_model)
    monkeypatch.setattr(train, "load_dataset", lambda _: token_dataset)


def words(out: Path, *more: str, d_in: int = 16) -> list[str]:
    settings = {
        "d_in": d_in,
        "d_sae": 48,
        "hook_name": HOOK,
        "context_size": 16,
        "training_tokens": 512,
        "train_batch_size_tokens": 64,
        "n_batches_in_buffer": 8,
        "store_batch_size_prompts": 8,
        "log_to_wandb": "false",
        "output_path": out,
        "checkpoint_path": out.parent / "checkpoints",
    }
    return ["train", *(str(word) for pair in settings.items() for word in (f"--{pair[0]}", pair[1])), *more]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--architecture", "kron", "--sae.k", "4", "--sae.extension_dim", "3"], KronSAE),
        (["--architecture", "kron", "--sae.k", "4", "--sae.budgets", "1", "2", "4"], KronSAE),
        (["--architecture", "hierarchical_topk", "--k", "4", "--sae.budgets", "1", "2", "4"], TopKSAE),
        (["--architecture", "hierarchical_topk", "--sae.k", "4", "--sae.budgets", "all"], TopKSAE),
    ],
)
def test_train_saves_an_sae_that_loads_by_name(tmp_path, flags: list[str], expected: type) -> None:
    assert main(words(tmp_path / "sae", *flags)) == 0
    sae = SAE.load_from_disk(tmp_path / "sae")
    assert type(sae) is expected and sae.cfg.k == 4
    if "2" in flags:
        assert sae.cfg.metadata.training_architecture_details["budgets"] == [1, 2, 4]


def test_train_residual_on_a_base_from_disk(tmp_path) -> None:
    base_sae("standard", d_in=16).save_model(tmp_path / "base")
    flags = ["--architecture", "residual", "--sae.base_path", str(tmp_path / "base"), "--sae.k", "3"]
    assert main(words(tmp_path / "sae", *flags)) == 0
    sae = SAE.load_from_disk(tmp_path / "sae")
    assert type(sae) is JumpReLUSAE and sae.cfg.metadata.residual_base["architecture"] == "standard"


def test_train_residual_without_its_base_writes_nothing(tmp_path, capsys) -> None:
    flags = ["--architecture", "residual", "--sae.base_path", str(tmp_path / "gone")]
    assert main(words(tmp_path / "sae", *flags)) == 1
    assert "holds no saved SAE" in capsys.readouterr().err
    assert not (tmp_path / "sae").exists()


def test_train_interrupted_leaves_a_checkpoint_that_it_goes_on_from(tmp_path, capsys, monkeypatch) -> None:
    steps: list[int] = []
    original = SAETrainer._checkpoint_if_needed

    def interrupted_at_3(trainer: SAETrainer) -> None:
        original(trainer)
        steps.append(trainer.n_training_samples)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SAETrainer, "_checkpoint_if_needed", interrupted_at_3)
    flags = ["--architecture", "kron", "--k", "4"]
    assert main(words(tmp_path / "sae", *flags)) == 130
    said = capsys.readouterr().err
    found = re.search(r"Go on with (--resume_from_checkpoint) (\S+/192)\n", said)
    assert found, said
    assert main(words(tmp_path / "sae", *flags, *found.groups())) == 0
    assert steps == [64, 128, 192, 256, 320, 384, 448, 512]
    assert isinstance(SAE.load_from_disk(tmp_path / "sae"), KronSAE)


@pytest.mark.parametrize("flag", ["--from_pretrained_path", "--resume_from_checkpoint"])
def test_train_checks_where_it_shall_start_from(tmp_path, capsys, flag: str) -> None:
    def complaint(path: Path) -> str:
        assert main(words(tmp_path / "sae", "--architecture", "kron", "--k", "4", flag, str(path))) == 1
        return capsys.readouterr().err

    assert "is not a saved SAE: there is no such folder" in complaint(tmp_path / "nowhere")
    base_sae("standard", d_in=16).save_model(tmp_path / "start")
    cfg = tmp_path / "start" / "cfg.json"
    cfg.write_text(cfg.read_text().replace('"standard"', '"kronn"'))
    assert "architecture 'kronn', which is not registered" in complaint(tmp_path / "start")
    weights = tmp_path / "start" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    assert f"{weights} (50 bytes) is truncated" in complaint(tmp_path / "start")


def test_train_names_the_hooks_width(tmp_path, capsys) -> None:
    assert main(words(tmp_path / "sae", "--architecture", "kron", "--k", "4", d_in=24)) == 1
    assert "have width 16, but the SAE has d_in = 24. Set --d_in to that width." in capsys.readouterr().err


def test_train_names_an_unknown_hook(tmp_path, capsys) -> None:
    flags = ["--architecture", "kron", "--k", "4", "--hook_name", "blocks.1.hook_out"]
    assert main(words(tmp_path / "sae", *flags)) == 1
    assert "no hook 'blocks.1.hook_out'" in capsys.readouterr().err

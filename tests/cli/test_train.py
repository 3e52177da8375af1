"""`sae-lens-ext train` with a tiny model: every architecture of ours is trained, saved and loads by name."""

from pathlib import Path

import pytest
from sae_lens import SAE, JumpReLUSAE, TopKSAE

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


def test_train_names_the_hooks_width(tmp_path, capsys) -> None:
    assert main(words(tmp_path / "sae", "--architecture", "kron", "--k", "4", d_in=24)) == 1
    assert "have width 16, but the SAE has d_in = 24. Set --d_in 16." in capsys.readouterr().err


def test_train_names_an_unknown_hook(tmp_path, capsys) -> None:
    flags = ["--architecture", "kron", "--k", "4", "--hook_name", "blocks.1.hook_out"]
    assert main(words(tmp_path / "sae", *flags)) == 1
    assert "no hook 'blocks.1.hook_out'" in capsys.readouterr().err

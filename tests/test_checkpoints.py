"""The last whole checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from safetensors.torch import save_file

from sae_lens_ext import checkpoints
from sae_lens_ext.checkpoints import latest_checkpoint, require_checkpoint, tokens_trained
from sae_lens_ext.checksum import write_checksums


def checkpoint(folder: Path, *saes: str, tokens: int = 7) -> None:
    for name in saes or (".",):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file({"W_dec": torch.ones(2)}, folder / name / "sae_weights.safetensors")
        torch.save({"n_training_samples": tokens}, folder / name / "trainer_state.pt")
    (folder / "runner_cfg.json").write_text("{}")


def test_the_last_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nowhere") is None
    for tokens in (64, 128, 1024):
        checkpoint(tmp_path / str(tokens))
    checkpoint(tmp_path / "final_2048")
    assert latest_checkpoint(tmp_path) == tmp_path / "1024"
    weights = tmp_path / "1024" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    assert latest_checkpoint(tmp_path) == tmp_path / "128"
    (tmp_path / "128" / "trainer_state.pt").write_bytes(b"PK")
    assert latest_checkpoint(tmp_path) == tmp_path / "64"
    (tmp_path / "64" / "runner_cfg.json").write_text(json.dumps({})[:1])
    assert latest_checkpoint(tmp_path) is None


def test_every_sae_of_a_checkpoint_must_be_whole(tmp_path: Path) -> None:
    checkpoint(tmp_path / "64", "a", "b")
    checkpoint(tmp_path / "128", "a")
    assert latest_checkpoint(tmp_path, ("a", "b")) == tmp_path / "64"
    assert latest_checkpoint(tmp_path, ("a",)) == tmp_path / "128"


def test_tokens_are_read_from_the_trainer_s_state(tmp_path: Path) -> None:
    checkpoint(tmp_path / "renamed", tokens=192)
    assert tokens_trained(tmp_path / "renamed") == 192


def test_a_checkpoint_whose_bytes_have_changed_is_passed_over(tmp_path: Path) -> None:
    for tokens in (64, 128):
        checkpoint(tmp_path / str(tokens), "a", "b")
        write_checksums(tmp_path / str(tokens))
    (tmp_path / "128" / "note.txt").write_text("mine")
    assert latest_checkpoint(tmp_path, ("a", "b")) == tmp_path / "128"
    weights = tmp_path / "128" / "b" / "sae_weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert latest_checkpoint(tmp_path, ("a", "b")) == tmp_path / "64"
    (tmp_path / "64" / "checksums.json").write_text("[]")
    assert latest_checkpoint(tmp_path, ("a", "b")) is None


def whole(folder: Path, **state: Any) -> Path:
    """Write a checkpoint as SAELens does."""
    TopKTrainingSAE(TopKTrainingSAEConfig(d_in=4, d_sae=8, k=2)).save_model(folder)
    torch.save(dict.fromkeys(checkpoints._STATE_KEYS, 1) | state, folder / "trainer_state.pt")
    (folder / "activation_scaler.json").write_text("{}")
    return folder


def test_a_whole_checkpoint_can_be_gone_on_from(tmp_path: Path) -> None:
    require_checkpoint(whole(tmp_path))
    write_checksums(tmp_path)
    require_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a saved SAE: there is no such folder"):
        require_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="/b is not a saved SAE"):
        require_checkpoint(tmp_path, (".", "b"))


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "trainer_state.pt", "cfg.json"])
def test_a_checkpoint_whose_bytes_have_changed_is_not_gone_on_from(tmp_path: Path, name: str) -> None:
    path = whole(tmp_path) / name
    write_checksums(tmp_path)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="[Rr]estore"):
        require_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["trainer_state.pt", "activation_scaler.json"])
def test_a_checkpoint_without_one_of_its_files_is_not_gone_on_from(tmp_path: Path, name: str) -> None:
    path = whole(tmp_path) / name
    path.write_bytes(b"{")
    with pytest.raises(ValueError, match=f"{name} is .*Restore the checkpoint"):
        require_checkpoint(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"There is no file .*{name}. Restore the checkpoint"):
        require_checkpoint(tmp_path)


def test_a_state_that_misses_something_is_not_gone_on_from(tmp_path: Path) -> None:
    torch.save({"n_training_samples": 1}, whole(tmp_path) / "trainer_state.pt")
    with pytest.raises(ValueError, match="holds no act_freq_scores, .*optimizer"):
        require_checkpoint(tmp_path)


def test_a_checkpoint_that_is_passed_over_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint(tmp_path / "64")
    (tmp_path / "64" / "runner_cfg.json").write_text("{")
    assert latest_checkpoint(tmp_path) is None
    assert f"The checkpoint {tmp_path / '64'} is not whole" in caplog.text

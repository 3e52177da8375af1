"""The last whole checkpoint."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from sae_lens_ext.checkpoints import latest_checkpoint, tokens_trained
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

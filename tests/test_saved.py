"""`check_saved` knows what was saved, and finds what is broken in it."""

import json
import os
from pathlib import Path

import pytest
import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)

from sae_lens_ext import KronSAE, KronSAEConfig, SteeringVectors, check_saved, match_features, save_sae
from sae_lens_ext.asides import new_aside
from sae_lens_ext.checksum import write_checksums
from sae_lens_ext.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one of several kinds of things."""
    kron = KronSAE(KronSAEConfig(d_in=6, d_sae=24, k=4, base_dim=2, extension_dim=3))
    save_sae(kron, tmp_path / "a_sae")
    TopKSAE(TopKSAEConfig(d_in=6, d_sae=24, k=4)).save_model(tmp_path / "b_sae")
    checkpoint = tmp_path / "checkpoints" / "4096"
    TopKTrainingSAE(TopKTrainingSAEConfig(d_in=6, d_sae=24, k=4)).save_model(checkpoint)
    torch.save({"n_training_samples": 4096}, checkpoint / "trainer_state.pt")
    write_checksums(checkpoint)
    SteeringVectors({1: torch.ones(6)}).save(tmp_path / "vectors.safetensors")
    match_features(kron, kron).save(tmp_path / "match.json")
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st')
    (tmp_path / "notes.txt").write_text("mine")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name, text in {
        "tsconfig.json": "{} // mine",
        "empty.json": "",
        "cfg.json": '{"lr": 1}',
        "lfs.safetensors": "version https://git-lfs",
        "log.jsonl": "not json\nat all\n",
        "named.json": '{"format": "sae_lens_ext.AblateFeature/1"}',
    }.items():
        (foreign / name).write_text(text)
    (foreign / "gone.json").symlink_to(foreign / "nowhere")
    os.mkfifo(foreign / "pipe.json")
    TopKTrainingSAE(TopKTrainingSAEConfig(d_in=6, d_sae=24, k=4)).save_model(tmp_path / "c_sae")
    BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=6, d_sae=24, k=4)).save_model(tmp_path / "d_sae")
    (tmp_path / "other.json").write_text('{"format": "png"}')
    new_aside(tmp_path / "x.json").write_text("{")  # a living process: this one
    (tmp_path / "loop").symlink_to(tmp_path)
    return tmp_path


def kinds(folder: Path) -> dict[str, str]:
    return {saved.path.relative_to(folder).as_posix(): saved.kind for saved in check_saved(folder)}


def problems(folder: Path) -> dict[str, str]:
    return {
        saved.path.relative_to(folder).as_posix(): saved.problem
        for saved in check_saved(folder)
        if saved.problem
    }


def test_everything_of_ours_is_found_and_nothing_else(folder: Path) -> None:
    found = {name: kind for name, kind in kinds(folder).items() if not name.startswith(".")}
    assert [kind for name, kind in kinds(folder).items() if name not in found] == ["being written"]
    assert found == {
        "a_sae": "SAE (kron)",
        "b_sae": "SAE (topk)",
        "c_sae": "SAE (topk)",
        "d_sae": "SAE in training form (batchtopk)",
        "checkpoints/4096": "checkpoint of 4096 tokens",
        "log.jsonl": "log of a training",
        "match.json": "FeatureMatch",
        "vectors.safetensors": "SteeringVectors",
    }
    assert problems(folder) == {}


@pytest.mark.parametrize(
    "name", ["a_sae/sae_weights.safetensors", "checkpoints/4096/trainer_state.pt", "vectors.safetensors"]
)
def test_a_flipped_bit_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-20] ^= 16
    (folder / name).write_bytes(data)
    (found,) = problems(folder).items()
    assert name.startswith(found[0])
    assert str(folder) in found[1]


def test_what_is_truncated_is_found(folder: Path) -> None:
    for name in ("b_sae/sae_weights.safetensors", "match.json"):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-10])
    (folder / "log.jsonl").write_text('{"step": 1\n{"step": 2}\n')
    assert list(problems(folder)) == ["b_sae", "log.jsonl", "match.json"]


def test_a_single_file_is_read(folder: Path) -> None:
    (saved,) = check_saved(folder / "vectors.safetensors")
    assert (saved.kind, saved.problem) == ("SteeringVectors", None)
    with pytest.raises(FileNotFoundError, match="There is nothing at .*nowhere. Give a file or a folder"):
        check_saved(folder / "nowhere")


def test_the_command_says_what_is_broken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 0
    assert f"ok   {folder / 'a_sae'}: SAE (kron)" in capsys.readouterr().out.splitlines()
    (folder / "a_sae" / "cfg.json").write_text(json.dumps({"architecture": "kron"}))
    assert main(["check", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert f"BAD  {folder / 'a_sae'}: " in out
    assert err.startswith("sae-lens-ext: error: 1 of 9 saved things cannot be read.")
    (folder / "empty").mkdir()
    assert main(["check", str(folder / "empty")]) == 1
    assert "Nothing that this package or SAELens saves was found" in capsys.readouterr().err


def test_what_a_process_left_is_told_from_what_is_the_user_s(folder: Path) -> None:
    (aside,) = folder.glob(".x.json*")
    token = aside.name.split("-")[2]
    aside.rename(folder / aside.name.replace(token, "0" * 8))
    (folder / "a_sae").rename(folder / "a_sae.before")
    (folder / "b_sae").rename(folder / ".b_sae.before")
    found = kinds(folder)
    assert [found[name] for name in found if name.endswith(".part")] == [
        "left by a write that was cut off; it can be deleted"
    ]
    assert found["a_sae.before"] == "SAE (kron)"
    assert [saved.kind[:21] for saved in check_saved(folder / ".b_sae.before")] == [
        "what was there before",
        "SAE (topk)",
    ]

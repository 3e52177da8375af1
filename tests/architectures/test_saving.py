"""A saved SAE is whole, sealed, and SAELens' own."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from safetensors.torch import load_file, save_file

from sae_lens_ext import KronSAE, KronSAEConfig, KronTrainingSAE, KronTrainingSAEConfig, load_sae, save_sae
from sae_lens_ext.architectures.saving import require_seal

SIZES: dict[str, Any] = {"d_in": 6, "d_sae": 24, "k": 4}
KRON: dict[str, Any] = {**SIZES, "base_dim": 2, "extension_dim": 3}


def same(a: SAE[Any], b: SAE[Any]) -> bool:
    state, other = a.state_dict(), b.state_dict()
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sae", [KronSAE(KronSAEConfig(**KRON)), TopKSAE(TopKSAEConfig(**SIZES))])
def test_save_sae_writes_what_saelens_and_load_sae_read(tmp_path: Path, sae: SAE[Any]) -> None:
    paths = save_sae(sae, tmp_path / "new" / "sae")
    assert [path.name for path in paths] == ["sae_weights.safetensors", "cfg.json"]
    assert all(path.is_file() for path in paths)
    assert names(tmp_path / "new") == ["sae"]
    assert same(load_sae(tmp_path / "new" / "sae"), sae)
    assert same(SAE.load_from_disk(tmp_path / "new" / "sae"), sae)


@pytest.mark.parametrize(
    "sae", [KronTrainingSAE(KronTrainingSAEConfig(**KRON)), TopKTrainingSAE(TopKTrainingSAEConfig(**SIZES))]
)
def test_save_sae_gives_a_training_sae_its_inference_form(tmp_path: Path, sae: SAE[Any]) -> None:
    save_sae(sae, tmp_path / "sae")
    assert load_sae(tmp_path / "sae").cfg.architecture() == sae.cfg.architecture()


def test_saving_again_replaces_the_sae_and_leaves_other_files(tmp_path: Path) -> None:
    first, second = (KronSAE(KronSAEConfig(**KRON)) for _ in range(2))
    first.save_model(tmp_path / "sae")
    (tmp_path / "sae" / "notes.txt").write_text("mine")
    second.save_model(tmp_path / "sae")
    assert names(tmp_path / "sae") == ["cfg.json", "notes.txt", "sae_weights.safetensors"]
    assert same(load_sae(tmp_path / "sae"), second)


@pytest.mark.parametrize("others", [True, False])
def test_a_full_disk_leaves_the_sae_that_was_there(
    tmp_path: Path, others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (KronSAE(KronSAEConfig(**KRON)) for _ in range(2))
    save_sae(first, tmp_path / "sae")
    if others:
        (tmp_path / "sae" / "notes.txt").write_text("mine")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match="sae could not be written .No space left on device., and is as it was before"
    ):
        save_sae(second, tmp_path / "sae")
    assert names(tmp_path) == ["sae"]
    assert same(load_sae(tmp_path / "sae"), first)


def test_a_flipped_bit_of_a_weight_is_found(tmp_path: Path) -> None:
    save_sae(TopKSAE(TopKSAEConfig(**SIZES)), tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match="holds other weights than were saved: its checksum differs.*Copy it again"
    ):
        load_sae(tmp_path)


def test_the_configuration_of_another_sae_is_found(tmp_path: Path) -> None:
    for k in (4, 5):
        save_sae(TopKSAE(TopKSAEConfig(**{**SIZES, "k": k})), tmp_path / str(k))
    (tmp_path / "5" / "cfg.json").replace(tmp_path / "4" / "cfg.json")
    with pytest.raises(
        ValueError, match="was edited or damaged, or belongs to another SAE.*write it anew with save_sae"
    ):
        load_sae(tmp_path / "4")
    save_sae(SAE.load_from_disk(tmp_path / "4"), tmp_path / "4")
    assert load_sae(tmp_path / "4").cfg.k == 5


def test_the_spelling_of_the_configuration_does_not_count(tmp_path: Path) -> None:
    save_sae(TopKSAE(TopKSAEConfig(**SIZES)), tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(dict(reversed(cfg.items())), indent=4))
    load_sae(tmp_path)


def test_an_sae_without_a_seal_is_read_as_it_is(tmp_path: Path) -> None:
    TopKSAE(TopKSAEConfig(**SIZES)).save_model(tmp_path)
    require_seal(tmp_path)
    save_file({**load_file(tmp_path / "sae_weights.safetensors")}, tmp_path / "sae_weights.safetensors")
    load_sae(tmp_path)

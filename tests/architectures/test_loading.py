"""Every way in which a folder can be wrong has its own sentence, and nothing half-loaded comes back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lens_ext import KronSAE, KronSAEConfig, load_sae
from tests.architectures.bases import base_sae, residual_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    KronSAE(KronSAEConfig(d_in=6, d_sae=24, k=4, base_dim=2, extension_dim=3)).save_model(tmp_path / "sae")
    return tmp_path / "sae"


def edit(folder: Path, **fields) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_load_sae_loads_what_saelens_loads(folder: Path) -> None:
    sae = load_sae(folder)
    assert isinstance(sae, KronSAE) and sae.cfg.k == 4
    assert load_sae(folder, dtype="bfloat16").W_dec.dtype == torch.bfloat16


def test_load_sae_missing_folder_or_file(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a saved SAE: there is no such folder"):
        load_sae(folder / "nowhere")
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="it holds no sae_weights.safetensors"):
        load_sae(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -10])
def test_load_sae_truncated_weights(folder: Path, keep: int) -> None:
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is truncated or not a safetensors file.*Copy it again"):
        load_sae(folder)


def test_load_sae_foreign_weights(folder: Path) -> None:
    (folder / "sae_weights.safetensors").write_bytes(b"PK\x03\x04 this is a zip, or claims to be" * 50)
    with pytest.raises(ValueError, match="is truncated or not a safetensors file"):
        load_sae(folder)


def test_load_sae_weights_of_another_sae(folder: Path) -> None:
    weights = load_file(folder / "sae_weights.safetensors")
    save_file({**weights, "b_enc": torch.zeros(3)}, folder / "sae_weights.safetensors")
    with pytest.raises(ValueError, match=r"do not fit the 'kron' SAE.*size mismatch for b_enc"):
        load_sae(folder)
    del weights["W_dec"]
    save_file(weights, folder / "sae_weights.safetensors")
    with pytest.raises(ValueError, match=r"Missing key\(s\).*W_dec.*Restore both from the same save"):
        load_sae(folder)


def test_load_sae_unknown_architecture(folder: Path) -> None:
    edit(folder, architecture="kronecker")
    with pytest.raises(
        ValueError, match=r"'kronecker', which is not registered. Registered are .*kron.*import that package"
    ):
        load_sae(folder)


def test_load_sae_training_checkpoint(tmp_path: Path) -> None:
    residual_for(base_sae("standard")).save_model(tmp_path)
    with pytest.raises(ValueError, match="training checkpoint of the architecture 'residual'"):
        load_sae(tmp_path)


def test_load_sae_unknown_field(folder: Path) -> None:
    edit(folder, base_dims=2)
    with pytest.raises(
        ValueError, match=r"fields 'base_dims', which KronSAEConfig does not know.*Did you mean 'base_dim'"
    ):
        load_sae(folder)


def test_load_sae_bad_config(folder: Path) -> None:
    edit(folder, d_sae=25)
    with pytest.raises(ValueError, match="d_sae = 25 does not divide"):
        load_sae(folder)
    (folder / "cfg.json").write_text('{"architecture": "kron"')
    with pytest.raises(ValueError, match="cfg.json is not valid JSON"):
        load_sae(folder)
    for content in ("[]", '{"architecture": ["kron"], "d_in": 6, "d_sae": 24, "dtype": "float32"}'):
        (folder / "cfg.json").write_text(content)
        with pytest.raises(ValueError, match="names no architecture"):
            load_sae(folder)
    (folder / "cfg.json").write_text('{"architecture": "kron", "d_in": 6}')
    with pytest.raises(ValueError, match="names no d_sae and no dtype"):
        load_sae(folder)


def test_load_sae_every_saelens_sae_of_ours(tmp_path: Path) -> None:
    for kind in ("standard", "jumprelu", "topk"):
        base_sae(kind).save_model(tmp_path / kind)
        assert load_sae(tmp_path / kind).cfg.architecture() == kind

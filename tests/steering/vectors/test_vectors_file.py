import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.vectors.conftest import random_vectors
from tests.steering.vectors.test_linear_combination import steering_vectors

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.safetensors"
    SteeringVectors(random_vectors(0, 3), {"made_by": "hand"}).save(path)
    return path


@settings(max_examples=25)
@given(steering_vectors(), st.dictionaries(st.text(), json_values, max_size=3))
def test_saving_and_loading_is_exact(vectors: SteeringVectors, provenance: dict[str, Any]) -> None:
    vectors = SteeringVectors(vectors.vectors, provenance)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.safetensors"
        vectors.save(path)
        loaded = SteeringVectors.load(str(path))
    assert loaded.layers == vectors.layers
    assert all(torch.equal(loaded[layer], vectors[layer]) for layer in vectors)
    assert loaded.provenance == vectors.provenance == provenance


def test_small_and_large_numbers_survive(tmp_path: Path) -> None:
    vector = torch.tensor([1e-45, -0.0, 3.4e38, 1 / 3])
    SteeringVectors({0: vector}).save(tmp_path / "a")
    loaded = SteeringVectors.load(tmp_path / "a")[0]
    assert loaded.view(torch.int32).tolist() == vector.view(torch.int32).tolist()


def test_equal_vectors_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        SteeringVectors(random_vectors(3, 0), {"seed": 1}).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_is_plain_safetensors_with_provenance_in_its_header(saved: Path) -> None:
    assert sorted(load_file(saved)) == ["layer.0", "layer.3"]
    with safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()["steering_vectors"])
    assert header["format"] == "sae_lens_ext.SteeringVectors/1"
    assert header["provenance"] == {"made_by": "hand"}
    assert "sae_lens_ext_version" in header["saved_with"]


def test_what_was_loaded_does_not_depend_on_the_file(saved: Path) -> None:
    loaded = SteeringVectors.load(saved)
    SteeringVectors(random_vectors(0, 3, seed=9)).save(saved)
    assert torch.equal(loaded[3], random_vectors(0, 3)[3])


def test_a_write_that_fails_leaves_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        SteeringVectors(random_vectors(1)).save(saved)
    assert saved.read_bytes() == before


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    vectors = SteeringVectors(random_vectors(0))
    with pytest.raises(FileNotFoundError, match="the folder .*absent does not exist. Make it first."):
        vectors.save(tmp_path / "absent" / "vectors.safetensors")
    with pytest.raises(IsADirectoryError, match="it is a folder. Give a file"):
        vectors.save(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(
            FileNotFoundError, match="There is no file .* Give a file that SteeringVectors.save wrote."
        ):
            SteeringVectors.load(path)


@pytest.mark.parametrize("kept", [0, 7, 40, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: Path, kept: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"\(\d+ bytes\) is truncated or not a safetensors file"):
        SteeringVectors.load(saved)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_another_safetensors_file_is_refused(tmp_path: Path, metadata: Any) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "a", metadata)
    with pytest.raises(
        ValueError, match="but of no steering vectors.* 1 tensors, 'weight' first.*from_bias_checkpoint"
    ):
        SteeringVectors.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            '{"format": "sae_lens_ext.SteeringVectors/2", "provenance": {}}',
            "reads up to .*Install a later one",
        ),
        ('{"format": "sae_lens_ext.SteeringVectors/x", "provenance": {}}', "but steering vectors have"),
        (
            '{"format": "sae_lens_ext.FlowGraph/1", "provenance": {}}',
            "has the format 'sae_lens_ext.FlowGraph/1', but",
        ),
        ("{", "has a damaged header"),
        ("[]", "has a damaged header"),
        ('{"provenance": {}}', "has a damaged header"),
        ('{"format": "sae_lens_ext.SteeringVectors/1"}', "has a damaged header"),
        ('{"format": "sae_lens_ext.SteeringVectors/1", "provenance": 3}', "has a damaged header"),
    ],
)
def test_another_header_is_refused(tmp_path: Path, header: str, message: str) -> None:
    save_file({"layer.0": torch.ones(2)}, tmp_path / "a", {"steering_vectors": header})
    with pytest.raises(ValueError, match=message):
        SteeringVectors.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"layer.0": torch.ones(2), "other": torch.ones(2)},
            "has the tensors 'other' among its steering vectors",
        ),
        (
            {"layer.0": torch.ones(2), "layer.1": torch.ones(3)},
            "no usable steering vectors.*different widths",
        ),
        ({"layer.0": torch.tensor([float("nan")])}, "no usable steering vectors.*layer 0 with NaN"),
        ({}, "no usable steering vectors.*no vector"),
    ],
)
def test_tensors_that_are_no_vectors_are_refused(tmp_path: Path, tensors: Any, message: str) -> None:
    header = {"steering_vectors": '{"format": "sae_lens_ext.SteeringVectors/1", "provenance": {}}'}
    save_file(tensors, tmp_path / "a", header)
    with pytest.raises(ValueError, match=message):
        SteeringVectors.load(tmp_path / "a")

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.vectors.conftest import random_vectors
from tests.steering.vectors.test_from_model import SMALL, same

VECTORS = random_vectors(0, 2)
OTHERS = {"model.embed_tokens.weight": torch.ones(2, 2), "model.layers.0.mlp.up_proj.bias": torch.ones(24)}


def biases(prefix: str = "model.", end: str = ".mlp.down_proj.bias") -> dict[str, torch.Tensor]:
    return {f"{prefix}layers.{layer}{end}": vector for layer, vector in VECTORS.items()}


@pytest.mark.parametrize("prefix", ["model.", "", "base_model.model.model.", "_orig_mod.module.model."])
def test_a_safetensors_file_is_read_under_any_prefix(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "biases.safetensors"
    save_file({**biases(prefix), **OTHERS}, path)
    found = SteeringVectors.from_bias_checkpoint(path)
    assert same(found, VECTORS)
    assert found.provenance["checkpoint"] == "biases.safetensors"


def test_peft_keeps_adapted_biases_in_the_base_layer(tmp_path: Path) -> None:
    save_file(biases(end=".mlp.down_proj.base_layer.bias"), tmp_path / "adapter_model.safetensors")
    assert same(SteeringVectors.from_bias_checkpoint(tmp_path), VECTORS)


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt"])
@pytest.mark.parametrize("wrapped", [lambda state: state, lambda state: {"state_dict": state, "step": 3}])
def test_a_file_of_torch_save_is_read(tmp_path: Path, suffix: str, wrapped: Any) -> None:
    path = tmp_path / f"biases.{suffix}"
    torch.save(wrapped({**biases(), **OTHERS}), path)
    assert same(SteeringVectors.from_bias_checkpoint(str(path)), VECTORS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "biases.safetensors"
    save_file({key: bias.to(dtype) for key, bias in biases().items()}, path)
    found = SteeringVectors.from_bias_checkpoint(path)
    assert same(found, {layer: bias.to(dtype).float() for layer, bias in VECTORS.items()})


def test_a_hugging_face_folder_is_read(llama: Any, tmp_path: Path) -> None:
    llama.load_state_dict(SteeringVectors(VECTORS).to_bias_state_dict(), strict=False)
    llama.save_pretrained(tmp_path)
    found = SteeringVectors.from_bias_checkpoint(tmp_path, llama)
    assert same(found, {0: VECTORS[0], 1: torch.zeros(16), 2: VECTORS[2]})
    assert same(SteeringVectors.from_model(llama), dict(found.vectors))


@pytest.fixture
def sharded(llama: Any, tmp_path: Path) -> Path:
    llama.load_state_dict(SteeringVectors(VECTORS).to_bias_state_dict(), strict=False)
    llama.save_pretrained(tmp_path, max_shard_size="6KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    return tmp_path


def index_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def test_a_sharded_folder_is_read(sharded: Path, llama: Any) -> None:
    found = SteeringVectors.from_bias_checkpoint(sharded)
    assert same(found, dict(SteeringVectors.from_model(llama).vectors))
    assert same(
        SteeringVectors.from_bias_checkpoint(sharded / "model.safetensors.index.json"), dict(found.vectors)
    )


def test_shards_without_biases_may_be_missing_and_others_not(sharded: Path) -> None:
    index = index_of(sharded)
    needed = {name for key, name in index.items() if key.endswith("down_proj.bias")}
    for name in {*index.values()} - needed:
        (sharded / name).unlink()
    SteeringVectors.from_bias_checkpoint(sharded)
    gone = index["model.layers.1.mlp.down_proj.bias"]
    (sharded / gone).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"names the file '{gone}' for the biases of the layers .*1.*not there"
    ):
        SteeringVectors.from_bias_checkpoint(sharded)


def test_a_shard_that_lacks_what_the_index_promises_is_refused(sharded: Path) -> None:
    save_file(OTHERS, sharded / index_of(sharded)["model.layers.1.mlp.down_proj.bias"])
    with pytest.raises(
        ValueError, match="lacks 'model.layers.*down_proj.bias'.*which the index beside it promises"
    ):
        SteeringVectors.from_bias_checkpoint(sharded)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="is no index of a sharded model"):
        SteeringVectors.from_bias_checkpoint(sharded)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no weights in it: none of model.safetensors.index.json"):
        SteeringVectors.from_bias_checkpoint(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file .*absent.safetensors"):
        SteeringVectors.from_bias_checkpoint(tmp_path / "absent.safetensors")


def test_a_checkpoint_without_such_biases_is_refused_with_what_it_has(tmp_path: Path) -> None:
    many = {**OTHERS, **{f"lora.{i}": torch.ones(1) for i in range(9)}}
    save_file(many, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"has no bias on a down_proj.*'lora.0'.* and 6 more"):
        SteeringVectors.from_bias_checkpoint(tmp_path / "a.safetensors")
    torch.save(torch.ones(3), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="has no bias on a down_proj"):
        SteeringVectors.from_bias_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
@pytest.mark.parametrize("kept", [0, 5, 0.5])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(biases(), path)
    else:
        save_file(biases(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"a.(pt|safetensors) \(\d+ bytes\) is truncated"):
        SteeringVectors.from_bias_checkpoint(path)


def test_a_file_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"state_dict": biases(), "path": tmp_path}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds other objects than tensors, which are not loaded"):
        SteeringVectors.from_bias_checkpoint(tmp_path / "a.pt")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="a.gguf is no checkpoint by its name"):
        SteeringVectors.from_bias_checkpoint(tmp_path / "a.gguf")


def test_two_biases_of_one_layer_are_refused(tmp_path: Path) -> None:
    save_file(
        {**biases("text."), **{k: v.clone() for k, v in biases("image.").items()}}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match="two biases of layer 0, 'image.layers.0.* and 'text.layers.0"):
        SteeringVectors.from_bias_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (torch.zeros(16), "in 1 layers, but all are zero"),
        (torch.full((16,), float("nan")), "the vector of layer 1 with NaN"),
        (torch.ones(2, 2), r"the vector of layer 1 with the shape \[2, 2\]"),
        (torch.ones(4, dtype=torch.int8), "type torch.int8"),
    ],
)
def test_biases_that_are_no_vectors_are_refused(tmp_path: Path, bias: torch.Tensor, message: str) -> None:
    save_file({"model.layers.1.mlp.down_proj.bias": bias}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=message):
        SteeringVectors.from_bias_checkpoint(tmp_path / "a.safetensors")


def test_a_model_is_checked_when_given(tmp_path: Path, any_llama: Any, hooked_model: Any) -> None:
    path = tmp_path / "a.safetensors"
    save_file(biases(), path)
    assert same(SteeringVectors.from_bias_checkpoint(path, any_llama), VECTORS)
    with pytest.raises(ValueError, match="has vectors of layer 2, but the model .* layers 0 to 1"):
        SteeringVectors.from_bias_checkpoint(path, hooked_model)
    with pytest.raises(ValueError, match="stands between the MLP and the residual stream"):
        SteeringVectors.from_bias_checkpoint(path, Gemma2ForCausalLM(Gemma2Config(**SMALL)))
    with pytest.raises(ValueError, match="was given str as the model"):
        SteeringVectors.from_bias_checkpoint(path, "gpt2")


def test_biases_go_to_a_file_and_back(tmp_path: Path) -> None:
    vectors = SteeringVectors(VECTORS)
    given = vectors.to_bias_state_dict("base_model.model.")
    assert list(given) == [f"base_model.model.layers.{layer}.mlp.down_proj.bias" for layer in (0, 2)]
    save_file(given, tmp_path / "a.safetensors")
    assert same(SteeringVectors.from_bias_checkpoint(tmp_path / "a.safetensors"), VECTORS)
    given["base_model.model.layers.0.mlp.down_proj.bias"].zero_()
    assert torch.equal(vectors[0], VECTORS[0])

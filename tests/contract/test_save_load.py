"""What is saved for inference computes what the training SAE computed, in every precision."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.registry import SAE_CLASS_REGISTRY
from safetensors.torch import load_file

from .cases import CASES, TRAINED, ArchitectureCase
from .synthetic import copy_of_state, relative_error, same_state, sparse_activations, train

trained = pytest.mark.parametrize("case", TRAINED, ids=str)
every = pytest.mark.parametrize("case", CASES, ids=str)

# Relative Frobenius error of a batch of reconstructions. In half precision a latent on the edge of
# the top k, or of its threshold, may fall on the other side once norms are folded: single rows move.
TOLERANCE = {"float32": 1e-5, "float16": 5e-2, "bfloat16": 1e-1}
precisions = pytest.mark.parametrize("dtype", TOLERANCE)


def reconstruct(case: ArchitectureCase, sae: TrainingSAE[Any], x: torch.Tensor) -> torch.Tensor:
    """What the live training SAE would give at inference."""
    return sae.decode(case.inference_acts(sae, x))


def tensors_of(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor that a module holds: parameters, buffers, and attributes however nested."""

    def walk(path: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield path, value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from walk(f"{path}.{key}", item)
        elif isinstance(value, list | tuple | set):
            for index, item in enumerate(value):
                yield from walk(f"{path}[{index}]", item)

    for name, child in module.named_modules():
        yield from walk(name, {k: v for k, v in vars(child).items() if k != "_modules"})


@trained
def test_checkpoint_loaded_for_inference_is_right_or_refused(case: ArchitectureCase, tmp_path: Path):
    """SAELens reads a checkpoint of training as the inference SAE of the same name, where there is one."""
    sae, x = case.make_trained(steps=30), sparse_activations(256, seed=9)
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(sae.cfg.d_sae, 1) + 0.5)
    sae.save_model(tmp_path)
    if case.name in SAE_CLASS_REGISTRY:
        assert relative_error(SAE.load_from_disk(tmp_path)(x), sae(x)) < 1e-5
    else:
        with pytest.raises(KeyError, match=case.name):
            SAE.load_from_disk(tmp_path)


@trained
@precisions
def test_loaded_reconstructs_as_the_live_one(case: ArchitectureCase, dtype: str, tmp_path: Path):
    sae = case.make_trained(steps=30).to(dtype=getattr(torch, dtype))
    sae.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    x = sparse_activations(256, seed=9)
    assert loaded.dtype == sae.dtype
    assert {parameter.dtype for parameter in loaded.parameters()} == {sae.dtype}
    assert relative_error(loaded.decode(loaded.encode(x)), reconstruct(case, sae, x)) < TOLERANCE[dtype]
    assert relative_error(loaded(x), reconstruct(case, sae, x)) < TOLERANCE[dtype]


@pytest.mark.parametrize("case", [c for c in TRAINED if c.per_token], ids=str)
def test_loaded_forward_equals_the_live_forward(case: ArchitectureCase, tmp_path: Path):
    sae = case.make_trained(steps=30)
    sae.save_inference_model(tmp_path)
    x = sparse_activations(64, seed=9)
    torch.testing.assert_close(SAE.load_from_disk(tmp_path)(x), sae(x), rtol=1e-5, atol=1e-5)


@trained
def test_loaded_fires_the_same_features(case: ArchitectureCase, tmp_path: Path):
    sae = case.make_trained(steps=30)
    sae.save_inference_model(tmp_path)
    x = sparse_activations(256, seed=9)
    live, loaded = case.inference_acts(sae, x), SAE.load_from_disk(tmp_path).encode(x)
    assert ((live > 0) == (loaded > 0)).float().mean() > 0.999
    assert (loaded > 0).any()


@trained
def test_saving_leaves_the_live_sae_unchanged_and_trainable(case: ArchitectureCase, tmp_path: Path):
    sae = case.make_trained()
    before, cfg = copy_of_state(sae), copy.deepcopy(sae.cfg)
    sae.save_inference_model(tmp_path / "inference")
    sae.save_model(tmp_path / "checkpoint")
    assert same_state(sae, before)
    assert sae.cfg == cfg
    train(sae, steps=2)
    assert not same_state(sae, before)


@every
def test_nothing_stays_on_the_meta_device(case: ArchitectureCase, tmp_path: Path):
    case.make_inference().save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    for stage in ("loaded", "used"):
        found = [name for name, tensor in tensors_of(loaded) if tensor.is_meta]
        assert not found, f"{stage}: {found}"
        loaded(sparse_activations(3))
    assert str(loaded.device) == loaded.cfg.device == "cpu"


@trained
def test_no_training_tensor_stays_on_the_meta_device(case: ArchitectureCase, tmp_path: Path):
    case.make_trained().save_model(tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path)
    train(loaded, steps=1)
    assert not [name for name, tensor in tensors_of(loaded) if tensor.is_meta]


@every
def test_a_loaded_sae_saves_and_loads_again(case: ArchitectureCase, tmp_path: Path):
    sae = case.make_inference()
    sae.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is type(sae) is SAE_CLASS_REGISTRY[case.saved_as][0]
    assert loaded.cfg.to_dict() == sae.cfg.to_dict()
    assert same_state(loaded, copy_of_state(sae))
    x = sparse_activations(16)
    assert torch.equal(loaded(x), sae(x))


@every
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtype_can_be_chosen_at_loading(case: ArchitectureCase, dtype: str, tmp_path: Path):
    sae = case.make_inference()
    sae.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path, dtype=dtype)
    wanted = getattr(torch, dtype)
    assert (loaded.dtype, loaded.cfg.dtype) == (wanted, dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {wanted}
    x = sparse_activations(256, seed=9)
    out = loaded(x)
    assert out.dtype == wanted
    assert relative_error(out, sae(x)) < TOLERANCE.get(dtype, 1e-5)


@every
def test_a_cast_sae_equals_one_loaded_in_that_precision(case: ArchitectureCase, tmp_path: Path):
    sae = case.make_inference()
    sae.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path, dtype="bfloat16")
    sae.to(dtype=torch.bfloat16)
    x = sparse_activations(32)
    assert same_state(loaded, copy_of_state(sae))
    assert torch.equal(loaded(x), sae(x))


@trained
def test_the_file_holds_plain_float_tensors_and_no_scaling_factor(case: ArchitectureCase, tmp_path: Path):
    weights, _ = case.make_trained().save_inference_model(tmp_path)
    stored = load_file(weights)
    assert {"W_enc", "W_dec", "b_dec"} <= stored.keys()
    assert "scaling_factor" not in stored
    assert all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in stored.values())


@trained
def test_an_inference_loader_of_another_class_is_refused(case: ArchitectureCase, tmp_path: Path):
    case.make_trained().save_inference_model(tmp_path)
    other = next(cls for name, (cls, _) in SAE_CLASS_REGISTRY.items() if name == "standard")
    with pytest.raises(ValueError, match="is not of type StandardSAE"):
        other.load_from_disk(tmp_path)

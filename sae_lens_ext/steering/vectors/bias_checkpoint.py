"""Biases on `mlp.down_proj` out of files: the checkpoints of bias-only training (arXiv 2505.18706)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sae_lens_ext.json_file import read_json
from sae_lens_ext.steering.vectors.bias_keys import bias_keys, some

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_FILES_OF_A_FOLDER = (
    "model.safetensors.index.json",
    "model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "adapter_model.bin",
)


def checkpoint_biases(path: str | Path) -> dict[int, torch.Tensor]:
    """Read the biases `model.layers.{i}.mlp.down_proj.bias`, with any prefix, and nothing else.

    Args:
        path: A .safetensors file, a file of `torch.save` (.pt, .pth, .bin, .ckpt; read with `weights_only=True`), or a folder as Hugging Face
            saves models and PEFT adapters, in one file or several with an index.

    Returns:
        By layer, ascending, as they are in the file.

    Raises:
        FileNotFoundError: There is no such file, or a file that an index names is missing.
        ValueError: A file is truncated or of another kind; it has no such bias, two of one layer, or not those its index promises.
    """
    path = Path(path)
    if path.is_dir():
        names = [name for name in _FILES_OF_A_FOLDER if (path / name).is_file()]
        if not names:
            raise FileNotFoundError(
                f"The folder {path} has no weights in it: none of {', '.join(_FILES_OF_A_FOLDER)}. Give the folder of a saved model, or the file itself."
            )
        path = path / names[0]
    if path.name.endswith(".index.json"):
        return _read_sharded(path)
    return _read(path)


def _read(path: Path, expected: Mapping[int, str] | None = None) -> dict[int, torch.Tensor]:
    """Read one file: all biases in it, or those that an index promises."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give the path of a checkpoint.")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                wanted = _wanted(path, list(file.keys()), expected)
                return {layer: file.get_tensor(key) for layer, key in wanted.items()}
        except SafetensorError as error:
            raise ValueError(
                f"{path} ({path.stat().st_size} bytes) is truncated or not a safetensors file ({error}). Copy it again."
            ) from error
    if path.suffix in _TORCH_SUFFIXES:
        tensors = dict(_flat("", _torch_load(path)))
        wanted = _wanted(path, list(tensors), expected)
        return {layer: tensors[key] for layer, key in wanted.items()}
    raise ValueError(
        f"{path} is no checkpoint by its name. Give a .safetensors file, one of torch.save ({', '.join(_TORCH_SUFFIXES)}), or a Hugging Face folder."
    )


def _wanted(path: Path, keys: list[str], expected: Mapping[int, str] | None) -> dict[int, str]:
    if expected is not None:
        missing = [key for key in expected.values() if key not in keys]
        if missing:
            raise ValueError(
                f"{path} lacks {some(missing)}, which the index beside it promises. Copy the folder again."
            )
        return dict(expected)
    found = bias_keys(str(path), keys)
    if not found:
        raise ValueError(
            f"{path} has no bias on a down_proj: no key such as 'model.layers.0.mlp.down_proj.bias'. It has {some(keys)}. Give a bias-only "
            "checkpoint, or SteeringVectors({layer: vector, ...}) if they have another name."
        )
    return found


def _read_sharded(index: Path) -> dict[int, torch.Tensor]:
    """Read the biases of a model in several files. Files without any are not opened, and may be missing."""
    try:
        content: dict[str, Any] = dict(read_json(index)["weight_map"])
        if not all(isinstance(name, str) and Path(name).name == name for name in content.values()):
            raise ValueError("a file that it names is none of its folder")
        file_of: dict[str, str] = content
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{index} is no index of a sharded model ({type(error).__name__}: {error}). Copy the folder again."
        ) from error
    wanted = _wanted(index, list(file_of), None)
    found: dict[int, torch.Tensor] = {}
    for name in dict.fromkeys(file_of[key] for key in wanted.values()):
        shard = index.with_name(name)
        in_it = {layer: key for layer, key in wanted.items() if file_of[key] == name}
        if not shard.is_file():
            raise FileNotFoundError(
                f"{index} names the file {name!r} for the biases of the layers {', '.join(map(str, in_it))}, but it is not there. Copy the "
                "folder again, with all its files."
            )
        found.update(_read(shard, in_it))
    return {layer: found[layer] for layer in wanted}


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file the unpickler raises whatever it comes upon
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated, not a file of torch.save, or holds other objects than tensors, which are not loaded because "
            f"that would run code from the file ({type(error).__name__}). Save the state dict alone, as safetensors."
        ) from error


def _flat(prefix: str, content: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Give the tensors of nested mappings, as `{"state_dict": {...}}`, by keys joined with dots."""
    if isinstance(content, torch.Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), value)

"""The file of steering vectors: safetensors, with provenance and a format marker in its header."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.checksum import noted_checksum
from sae_lens_ext.files import write_whole_bytes
from sae_lens_ext.json_file import parse_json
from sae_lens_ext.tensor_file import content_checksum, require_checksum

FORMAT = "sae_lens_ext.SteeringVectors/1"
_KIND, _, _VERSION = FORMAT.partition("/")
_HEADER = "steering_vectors"
_CHECKSUM = "sha256"
_LAYER = re.compile(r"layer\.(\d+)")


def write_vectors(
    path: str | Path, vectors: Mapping[int, torch.Tensor], provenance: Mapping[str, Any]
) -> None:
    """Write vectors as the tensors `layer.0`, `layer.1`, ..., whole or not at all.

    The header's metadata have one entry, `steering_vectors`: JSON with `format`, `provenance` and `saved_with`, the versions.

    Args:
        path: The file; its folder must exist.
        vectors: By layer, float32 [d_model].
        provenance: What JSON can hold.

    Raises:
        FileNotFoundError: The folder does not exist.
        IsADirectoryError: The path is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Steering vectors cannot be saved to {path}: the folder {path.parent} does not exist. Make it first."
        )
    if path.is_dir():
        raise IsADirectoryError(
            f"Steering vectors cannot be saved to {path}: it is a folder. Give a file, such as {path / 'vectors.safetensors'}."
        )
    header = {"format": FORMAT, "provenance": dict(provenance), "saved_with": versions()}
    tensors = {f"layer.{layer}": vector.contiguous() for layer, vector in vectors.items()}
    header[_CHECKSUM] = content_checksum(tensors, header)
    # One entry, so that equal vectors give equal files: safetensors keeps several in no order.
    write_whole_bytes(path, save(tensors, {_HEADER: json.dumps(header, allow_nan=False)}))


def is_steering_vectors(path: Path) -> bool:
    """Tell whether a path is a safetensors file whose header says that it holds steering vectors, of whatever version."""
    try:
        with safe_open(path, framework="pt") as file:
            return _HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_vectors(path: str | Path) -> tuple[dict[int, torch.Tensor], dict[str, Any]]:
    """Read vectors and provenance from a file that `write_vectors` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, no safetensors file, or one of another kind or of a later version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give a file that SteeringVectors.save wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            header = _header(path, metadata, list(file.keys()))
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not a safetensors file ({error}). Copy it again, or give a file that "
            "SteeringVectors.save wrote."
        ) from error
    noted = noted_checksum(header, _CHECKSUM)
    header.pop(_CHECKSUM, None)
    try:
        require_checksum(noted, tensors, header)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be trusted ({error}). Copy it again, or give a file that SteeringVectors.save wrote."
        ) from error
    layers = {key: _LAYER.fullmatch(key) for key in tensors}
    strange = [key for key, layer in layers.items() if layer is None]
    if strange:
        raise ValueError(
            f"{path} has the tensors {', '.join(map(repr, strange[:5]))} among its steering vectors, which are called 'layer.0' and so on. Give a file as "
            "SteeringVectors.save wrote it."
        )
    return {int(layer[1]): tensors[key] for key, layer in layers.items() if layer}, header["provenance"]


def _header(path: Path, metadata: Mapping[str, str], keys: list[str]) -> dict[str, Any]:
    if _HEADER not in metadata:
        raise ValueError(
            f"{path} is a safetensors file, but of no steering vectors: its header does not say so. It has {len(keys)} tensors"
            + (f", {keys[0]!r} first" if keys else "")
            + ". Give a file that SteeringVectors.save wrote, or read a checkpoint of biases with SteeringVectors.from_bias_checkpoint."
        )
    try:
        header = parse_json(metadata[_HEADER])
        kind, _, version = str(header["format"]).partition("/")
        if not isinstance(header["provenance"], dict):
            raise ValueError(f"its provenance is {header['provenance']!r:.80}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} has a damaged header ({type(error).__name__}: {error}). Give a file as SteeringVectors.save wrote it."
        ) from error
    if kind == _KIND and version.isdigit() and len(version) < 6 and int(version) > int(_VERSION):
        raise ValueError(
            f"{path} has the format {header['format']!r:.80}, but this version of sae-lens-ext reads up to {FORMAT!r}. Install a later one: pip install -U "
            "sae-lens-ext."
        )
    if header["format"] != FORMAT:
        raise ValueError(
            f"{path} has the format {header['format']!r:.80}, but steering vectors have {FORMAT!r}. Give a file that SteeringVectors.save wrote."
        )
    return header

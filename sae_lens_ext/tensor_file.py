"""Tensors in one file, whole or not there, with a header that says what they are: safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sae_lens_ext.checksum import CHECKSUM_KEY, json_checksum, noted_checksum, tensors_checksum
from sae_lens_ext.files import write_whole_bytes

UNREADABLE = (
    OSError,
    SafetensorError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)
"""What reading a file that is truncated or of another kind may raise, and making something of what is in it."""


def write_tensor_file(
    path: str | Path, file_format: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]
) -> None:
    """Write tensors in place of what was there before.

    Args:
        path: The file; its folder must exist.
        file_format: What marks the file as one of its kind, such as "sae_lens_ext.LimeRouters/1".
        tensors: By name; two may share memory.
        header: What else belongs to them.
    """
    # Clones: safetensors refuses two names for one memory.
    data = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()
    }
    named = {"format": file_format, **header}
    write_whole_bytes(path, save(data, {**named, CHECKSUM_KEY: content_checksum(data, named)}))


def read_tensor_file(path: str | Path, file_format: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read what `write_tensor_file` wrote.

    Returns:
        The tensors by name, on the CPU, and the header.

    Raises:
        OSError, SafetensorError: There is no such file, or it is truncated or no safetensors file.
        ValueError: It is of another format, or was changed after it was written. Earlier versions noted no checksum; what they wrote passes.
    """
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header.get("format") != file_format:
        raise ValueError(f"its format is {header.get('format')!r:.80}")
    noted = noted_checksum(header, CHECKSUM_KEY)
    header.pop(CHECKSUM_KEY, None)
    require_checksum(noted, tensors, header)
    return tensors, header


def content_checksum(tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> str:
    """Give a sha256 over tensors and what is said of them.

    Args:
        tensors: By name.
        header: JSON values by name, without the checksum.
    """
    return json_checksum([tensors_checksum(tensors), dict(header)])


def require_checksum(
    noted: str | None, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Raise ValueError if the checksum of a file is another than was noted in it.

    Args:
        noted: What was found where the checksum is; None in files of earlier versions, which pass.
        tensors: By name.
        header: The rest of the header.
    """
    if noted is not None and noted != content_checksum(tensors, header):
        raise ValueError(
            "it was changed after it was written: it does not have the checksum that is noted in it"
        )

"""Tensors in one file, whole or not there, with a header that says what they are: safetensors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sae_lens_ext.files import write_whole_bytes

UNREADABLE = (OSError, SafetensorError, KeyError, IndexError, ValueError)
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
    write_whole_bytes(path, save(data, {"format": file_format, **header}))


def read_tensor_file(path: str | Path, file_format: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read what `write_tensor_file` wrote.

    Returns:
        The tensors by name, on the CPU, and the header.

    Raises:
        OSError, SafetensorError: There is no such file, or it is truncated or no safetensors file.
        ValueError: It is of another format.
    """
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header.get("format") != file_format:
        raise ValueError(f"its format is {header.get('format')!r}")
    return tensors, header

"""Checksums that tell whether what was read is what was written."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from sae_lens_ext.files import write_whole
from sae_lens_ext.json_file import read_json

CHECKSUM_KEY = "sae_lens_ext.sha256"
"""Where a safetensors file of ours has the checksum of its tensors: in the header."""
CHECKSUMS_FILE = "checksums.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 2**22  # bytes


def tensors_checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """Give a sha256 over names, dtypes, shapes and bytes, in the order of the names; where the tensors are does not count."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        data = tensor.flatten().view(torch.uint8).numpy()
        for start in range(0, len(data), _CHUNK):
            digest.update(data[start : start + _CHUNK].tobytes())
    return digest.hexdigest()


def json_checksum(content: Any) -> str:
    """Give a sha256 over JSON values; the order of names and the spaces between them do not count."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def noted_checksum(header: Mapping[str, Any], name: str, others: Collection[str] = ()) -> str | None:
    """Give the checksum in a header; None in that of an earlier version, which notes none.

    Args:
        header: What is in it, by name.
        name: The checksum's.
        others: Names of other checksums.

    Returns:
        The checksum; empty, and so that of nothing, if one is there under a name that is nearly its own, which is what a damaged name looks like.
    """
    if name in header:
        return str(header[name])
    nearly = (value for key, value in header.items() if key not in others and _is_nearly(key, name))
    return "" if any(isinstance(value, str) and _SHA256.fullmatch(value) for value in nearly) else None


def _is_nearly(key: str, name: str) -> bool:
    """Whether two names are of one length and differ in a few characters."""
    return len(key) == len(name) and sum(a != b for a, b in zip(key, name, strict=True)) <= max(
        1, len(name) // 4
    )


def write_checksums(folder: Path) -> None:
    """Note a folder's files, with those of its subfolders, beside them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS_FILE)
    checksums = {path.relative_to(folder).as_posix(): _file_checksum(path) for path in files}
    write_whole(folder / CHECKSUMS_FILE, json.dumps(checksums, indent=1))


def has_changed(folder: Path) -> bool:
    """Tell whether a file that `write_checksums` noted is another now, or gone; a folder without its note counts as unchanged."""
    noted = folder / CHECKSUMS_FILE
    if not noted.exists():
        return False
    try:
        checksums: dict[str, str] = read_json(noted)
        return any(_file_checksum(folder / name) != checksum for name, checksum in checksums.items())
    except (OSError, ValueError, AttributeError):
        return True


def _file_checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

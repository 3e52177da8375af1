"""A folder's manifest: which files belong to it and a fingerprint of each, cheap enough to check at every load."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sae_lens_ext.json_file import read_json

MANIFEST = "manifest.json"
_FORMAT = 1
_WHOLE_BELOW = 8 * 2**20  # bytes
_SAMPLES = 8
_SAMPLE_SIZE = 2**20  # bytes


def fingerprint(path: Path) -> str:
    """Returns a sha256 over a file's size and content; of a file over 8 MiB, over eight samples of 1 MiB.

    The samples lie evenly from the first byte to the last, so a safetensors header, a missing end and a hole left by a
    crash all show; half a gigabyte costs a few milliseconds instead of a second.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE_BELOW:
            digest.update(file.read())
        else:
            for i in range(_SAMPLES):
                file.seek((size - _SAMPLE_SIZE) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_SIZE))
    return digest.hexdigest()


def write_manifest(folder: Path, key: str) -> None:
    """Flushes every file of `folder` to disk, then writes and flushes the manifest that vouches for them.

    Raises:
        OSError: A file could not be written.
    """
    entries = {path.name: _entry(path) for path in _visible_files(folder)}
    manifest = folder / MANIFEST
    content = {"format": _FORMAT, "key": key, "files": entries}
    manifest.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in (*_visible_files(folder), manifest):
        _flush_file(path)
    flush_folder(folder)


def fault(folder: Path, key: str) -> str | None:
    """Says what is wrong with a folder, or returns None if it is exactly what its manifest describes.

    Args:
        folder: The folder to check.
        key: The key it must have been built for.
    """
    if not os.path.lexists(folder):
        return "it does not exist"
    try:
        content: Any = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return "it has no readable manifest"
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("key") != key:
        return "its manifest belongs to something else"
    try:
        entries = {path.name: _entry(path) for path in _visible_files(folder)}
    except OSError as error:
        return f"it cannot be read ({error})"
    return None if entries == content.get("files") else "its files differ from its manifest"


def flush_folder(folder: Path) -> None:
    """Flushes a folder's list of names to disk, where the system knows such a thing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entry(path: Path) -> dict[str, int | str]:
    return {"size": path.stat().st_size, "fingerprint": fingerprint(path)}


def _visible_files(folder: Path) -> list[Path]:
    """The folder's entries but for the manifest and hidden files (which no loader reads); a subfolder is an error."""
    return sorted(
        path for path in folder.iterdir() if path.name != MANIFEST and not path.name.startswith(".")
    )


def _flush_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())

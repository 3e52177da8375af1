"""Saving and loading the results of analyses: JSON with a format marker, and tensors beside it, whole or not at all."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from sae_lens_ext.analysis.typed_fields import require_types
from sae_lens_ext.checksum import json_checksum, noted_checksum
from sae_lens_ext.files import write_whole, write_whole_bytes
from sae_lens_ext.json_file import parse_finite_json, read_json, require_file

T = TypeVar("T")
_CHECKSUM = "sha256"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OF_BAD_CONTENT = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)
"""What making a result of a content that is none may raise."""
_LONGEST_REASON = 300  # characters


def save_result(path: str | Path, file_format: str, content: Mapping[str, Any]) -> None:
    """Write a result as JSON, with a checksum of its content, which tells a file that was changed.

    Args:
        path: The file; its folder must exist.
        file_format: What marks the file as one of its kind, such as "sae_lens_ext.DomainReport/1".
        content: The result, in what JSON knows; NaN and infinity are none of it.

    Raises:
        ValueError: A number is NaN or infinite. The file is as it was.
    """
    named = json.loads(json.dumps({"format": file_format, **content}, allow_nan=False))  # as it will be read
    write_whole(
        path, json.dumps({"format": file_format, _CHECKSUM: json_checksum(named), **named}, indent=1) + "\n"
    )


def load_result(path: str | Path, file_format: str, build: Callable[[Any], T], again: str) -> T:
    """Read a result that `save_result` wrote.

    Args:
        path: The file.
        file_format: The marker it must have.
        build: Makes the result of the content.
        again: How to make such a result anew, for the message.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a whole result of this format.
    """
    path = Path(path)
    kind = file_format.partition("/")[0].rpartition(".")[2]
    remedy = f"Give a file that {kind}.save wrote, or {again}."
    require_file(path, remedy)
    try:
        content = parse_finite_json(path.read_bytes())
        if content["format"] != file_format:
            raise ValueError(f"its format is {content['format']!r:.80}")
        changed = _is_changed(content)
        result = build(content)  # what it misses says more than that it was changed
        if changed:
            raise ValueError(
                "it was changed after it was saved: it does not have the checksum that is noted in it. If you edited it by hand, delete its line "
                f'"{_CHECKSUM}", and it is read as it is'
            )
        return require_types(result)
    except _OF_BAD_CONTENT as error:
        reason = f"{type(error).__name__}: {error}"
        reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
        raise ValueError(
            f"{path} is not a {kind} that this version can read, {file_format} ({reason}). {remedy}"
        ) from error


def _is_changed(content: Mapping[str, Any]) -> bool:
    """Tell whether a content is another than `save_result` wrote. Earlier versions noted no checksum; what they wrote counts as unchanged."""
    noted = noted_checksum(content, _CHECKSUM, ("tensors_sha256",))
    return noted is not None and noted != json_checksum({k: v for k, v in content.items() if k != _CHECKSUM})


def save_result_with_tensors(
    path: str | Path, file_format: str, content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Write a result as JSON, and its tensors as safetensors beside it.

    The tensors' file is named by what it holds, and the JSON names it. So a write that fails at any point leaves a result that
    was there before as it was; it may leave a tensors' file that no JSON names. The tensors of a result that is replaced go.

    Args:
        path: The JSON file; its folder must exist.
        file_format: As for `save_result`.
        content: As for `save_result`.
        tensors: What else belongs to the result, by name.

    Raises:
        ValueError: A number in `content` is NaN or infinite. What was there is as it was.
    """
    path = Path(path)
    # Clones: safetensors refuses two names for one memory.
    data = save({name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    beside, replaced = _tensors_beside(path, digest), _tensors_replaced(path)
    text = {"tensors": beside.name, "tensors_sha256": digest, **content}
    json.dumps(text, allow_nan=False)  # before anything is written
    write_whole_bytes(beside, data)
    save_result(path, file_format, text)
    if replaced is not None and replaced != beside:
        replaced.unlink(missing_ok=True)


def _tensors_beside(path: Path, digest: str) -> Path:
    return path.with_name(f"{path.name.removesuffix('.json')}-{digest[:12]}.safetensors")


def _tensors_replaced(path: Path) -> Path | None:
    """Give the tensors' file of the result that is at `path`, if there is one."""
    try:
        digest = read_json(path)["tensors_sha256"]
        return _tensors_beside(path, digest) if _SHA256.fullmatch(digest) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def load_result_with_tensors(
    path: str | Path, file_format: str, build: Callable[[Any, dict[str, torch.Tensor]], T], again: str
) -> T:
    """Read a result that `save_result_with_tensors` wrote.

    Args:
        path: The JSON file.
        file_format: The marker it must have.
        build: Makes the result of the content and the tensors.
        again: How to make such a result anew, for the message.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a whole result of this format, or its tensors are missing, truncated or others.
    """
    path = Path(path)

    def read(content: Any) -> T:
        beside = path.with_name(Path(content["tensors"]).name)
        if not beside.is_file():
            raise ValueError(f"its tensors, {beside.name}, are not beside it")
        data = beside.read_bytes()
        if hashlib.sha256(data).hexdigest() != content["tensors_sha256"]:
            raise ValueError(f"its tensors, {beside.name}, are truncated or not those it was saved with")
        try:
            tensors = load(data)
        except SafetensorError as error:
            raise ValueError(f"its tensors, {beside.name}, are no safetensors file ({error})") from error
        return build(content, tensors)

    return load_result(path, file_format, read, again)

"""Whether two loaded objects are the same to the bit."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


def same(a: Any, b: Any) -> bool:
    """Compare types and content to the bit, NaN equal to itself; two paths are always the same."""
    if isinstance(a, Path) and isinstance(b, Path):
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, torch.nn.Module):
        return same(dict(a.state_dict()), dict(b.state_dict())) and same(_settings(a), _settings(b))
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a.hex() == b.hex()
    if a is None:
        return True
    return bool(a == b) if type(a).__eq__ is not object.__eq__ else same(vars(a), vars(b))


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _settings(module: Any) -> Any:
    cfg = getattr(module, "cfg", None)
    return cfg.to_dict() if cfg is not None else getattr(module, "provenance", None)

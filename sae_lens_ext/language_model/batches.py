"""Batches of texts that need no padding."""

from collections.abc import Sequence
from typing import Any


def by_length(things: Sequence[Any], lengths: Sequence[int], batch_size: int) -> list[list[Any]]:
    """Put things of equal length into batches, by length and otherwise in their order."""
    groups: dict[int, list[Any]] = {}
    for thing, length in zip(things, lengths, strict=True):
        groups.setdefault(length, []).append(thing)
    return [
        group[start : start + batch_size]
        for _, group in sorted(groups.items())
        for start in range(0, len(group), batch_size)
    ]

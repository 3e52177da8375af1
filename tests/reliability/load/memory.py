"""How much memory a process holds while tokens go by."""

import gc
import resource
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_lens_ext.language_model import find_hook_point

PAGE = resource.getpagesize()
Samples = list[tuple[int, float]]
"""Tokens read so far, and MiB."""


def own_mib() -> float:
    """MiB of this process that are no pages of files: what memory-mapped data adds can be dropped at any time. Linux only."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * PAGE / 2**20


def peak_mib() -> float:
    """The largest resident set so far, pages of files included, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tensor_mib() -> float:
    """MiB of all tensors that are alive, each storage once: unlike the resident set, a number without noise."""
    gc.collect()
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for x in gc.get_objects()
        if type(x) in (torch.Tensor, torch.nn.Parameter) and x.layout == torch.strided
    }
    return sum(storages.values()) / 2**20


class MemoryCurve:
    """Samples memory every so many tokens that a model reads.

    Args:
        every: Tokens between two samples.
        measure: Gives the MiB.
    """

    def __init__(self, every: int, measure: Callable[[], float] = own_mib) -> None:
        self.every, self.measure = every, measure
        self.tokens = 0
        self.samples: Samples = []

    @contextmanager
    def watching(self, model: Any, hook_name: str) -> Generator[None, None, None]:
        """Count the tokens that pass a hook of the model, [batch, pos, d]."""
        handle = find_hook_point(model, hook_name).register_forward_pre_hook(self._count)
        try:
            yield
        finally:
            handle.remove()

    def _count(self, _: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        before, self.tokens = self.tokens, self.tokens + args[0].shape[:2].numel()
        if before == 0 or before // self.every < self.tokens // self.every:
            self.samples.append((before, round(self.measure(), 2)))


def slope(samples: Samples, first_token: int) -> float:
    """MiB that a million tokens add, by a straight line through the samples from `first_token` on."""
    tokens, mib = np.array([sample for sample in samples if sample[0] >= first_token], dtype=float).T
    return float(np.polyfit(tokens / 1e6, mib, 1)[0])

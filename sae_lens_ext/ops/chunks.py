"""Working through a batch a few tokens at a time, so that nothing of size [B, F] is ever held."""

from collections.abc import Iterator

import torch

SPARSE_DEVICES = ["cpu", "cuda"]  # elsewhere weighted bags may be missing, or were never tried
# On a CPU just under the 32 MiB above which malloc asks the kernel for new, unmapped pages every time.
FLOATS_PER_CHUNK = {"cpu": 15 * 2**19, "cuda": 2**27}


def chunks(tokens: int, floats_per_token: int, device: torch.device | None = None) -> Iterator[slice]:
    """Give the slices of a batch whose working set stays small.

    Args:
        tokens: B.
        floats_per_token: How many numbers one token needs in the widest intermediate result.
        device: Where the work happens; a CPU if None.
    """
    floats = FLOATS_PER_CHUNK.get(device.type if device else "cpu", FLOATS_PER_CHUNK["cuda"])
    step = max(1, floats // max(1, floats_per_token))
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))


def has_bags(device: torch.device) -> bool:
    """Tell whether the operations that sum weighted bags of rows may be used on a device."""
    return device.type in SPARSE_DEVICES

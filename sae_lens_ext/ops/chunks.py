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


class Encoder:
    """x ↦ W_encᵀ(x − b_in) + b_enc for chunk after chunk, in autocast's precision where that is on."""

    def __init__(self, W_enc: torch.Tensor, b_enc: torch.Tensor, b_in: torch.Tensor | None = None) -> None:
        self.b_enc, self.b_in = b_enc, b_in
        device_type = W_enc.device.type
        if torch.is_autocast_enabled(device_type):  # once, not once a chunk
            W_enc = W_enc.to(torch.get_autocast_dtype(device_type))
        self.W_enc = W_enc
        self.dtype = torch.promote_types(W_enc.dtype, b_enc.dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Encode activations [t, d] to pre-activations [t, F]."""
        if self.b_in is not None:
            x = x - self.b_in
        pre = x @ self.W_enc
        return pre.add_(self.b_enc) if pre.dtype == self.dtype else pre + self.b_enc

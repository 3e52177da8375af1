"""The initial weights of a share: those that the undivided SAE of the same seed has there.

SAELens draws W_dec, and every other weight follows from it latent by latent. Uniform numbers on the CPU are drawn one after another, so
the rows before a rank's own and those behind it are drawn as well, a few at a time, and dropped. That costs the time of drawing
d_sae · d_in numbers on every rank (seconds for 10⁹) and memory for the share and 64 MiB.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from sae_lens_ext.ranks import Ranks

NUMBERS_AT_ONCE = 2**24


@contextmanager
def as_in_the_whole(sae: Any, own: slice, ranks: Ranks) -> Generator[None, None, None]:
    """Let an SAE initialise its weights in this block as a share of a larger one.

    They are drawn on the CPU and brought to `sae.device` at the end. Torch's generator is left as the undivided SAE would leave it.

    Args:
        sae: A divided SAE under construction.
        own: Its latents.
        ranks: Who has the others, as many each.
    """
    device, sae.device = sae.device, torch.device("cpu")
    _drop_rows(own.start, sae)
    yield
    _drop_rows((own.stop - own.start) * ranks.size - own.stop, sae)
    sae.device = device
    for parameter in sae.parameters():
        parameter.data = parameter.data.to(device)


def _drop_rows(n: int, sae: Any) -> None:
    step = max(1, NUMBERS_AT_ONCE // sae.cfg.d_in)
    for start in range(0, n, step):
        torch.empty(min(step, n - start), sae.cfg.d_in, dtype=sae.dtype).uniform_()

"""Run a `hook_z` SAE on activations whose heads are flattened already, as training stores give them."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sae_lens import SAE


@contextmanager
def flat_heads(sae: SAE[Any]) -> Generator[None, None, None]:
    """Switch an SAE's reshaping of heads off, and back on after.

    Args:
        sae: Any SAE; one that reshapes no heads is left as it is.
    """
    reshaping = sae.hook_z_reshaping_mode
    sae.turn_off_forward_pass_hook_z_reshaping()
    try:
        yield
    finally:
        if reshaping:
            sae.turn_on_forward_pass_hook_z_reshaping()

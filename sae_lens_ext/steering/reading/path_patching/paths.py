"""Letting a steering vector take some paths through a block and not others, while a block of Python lasts."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from sae_lens_ext.steering.reading.path_patching.entering import entering_vector
from sae_lens_ext.steering.reading.path_patching.modes import PathMode
from sae_lens_ext.steering.reading.path_patching.patched_block import PatchedBlock, Reads
from sae_lens_ext.steering.reading.path_patching.projections import Projections, require_heads


@contextmanager
def patched_paths(
    model: Any, vector: Any, mode: PathMode | str, *, layer: int | None = None
) -> Generator[None, None, None]:
    """Steer a block with a vector that only parts of it read (arXiv 2509.06608; the modes are in the table of `PathMode`).

        with patched_paths(model, vectors.only(28), "skip_attn"):
            model.generate("The weather today is", max_new_tokens=20)

    s is added to the input of block L + 1, which is the residual stream after layer L, at every token. What reads vanilla is given the input as it
    was before. Blocks after it read what they get. The mode "base" changes nothing.

    It acts in forward passes and `generate`, with a key-value cache exactly as without: keys and values in the cache were computed in the
    same mode, so that a cache must not be taken from one mode to another. Padding is steered, too, which no token sees.

    That the places found are the right ones is checked while the model runs: the module patched must have read exactly what it
    should have read, and a head's projection must be what the block's weights make of it.

    Args:
        model: A HookedTransformer or TransformerBridge, whose `use_split_qkv_input` and `use_attn_in` are off.
        vector: s: a tensor [d_model], `SteeringVectors` with one layer, or an intervention that adds one vector to the residual stream.
        mode: A PathMode or its name.
        layer: L; by default the vector's own, or the last but one, n_layers − 2, if it has none.

    Raises:
        ValueError: There is no such mode or head; the vector is of another width, or not one; there is no block after the layer, or it has no attention; a
            head is to be patched, and the block has no projections that can be split.
        NotImplementedError: While the model runs: the block is of a kind whose paths cannot be told apart exactly, such as one with a single norm for
            attention and MLP.
        RuntimeError: The block of Python ended, but the model's never ran.
    """
    chosen = PathMode.parse(mode)
    found, s = entering_vector("patched_paths", model, vector, layer)
    if chosen.part is not None and chosen.head is not None:
        heads = Projections(model, found + 1).heads
        require_heads("patched_paths", model, found + 1, heads, chosen.part, chosen.head)
    if chosen.kind == "base":
        yield
        return
    with reading(model, found, s, Reads.of(chosen)):
        yield


@contextmanager
def reading(model: Any, layer: int, vector: torch.Tensor, reads: Reads) -> Generator[None, None, None]:
    """Let parts of the block after a layer read a vector while the block of Python lasts; as `patched_paths`, all checked already."""
    block = PatchedBlock(model, layer + 1, vector, reads)
    try:
        block.enter()
        yield
    finally:
        block.leave()
    block.require_ran()

"""q, k and v of a block, computed once more from another input, so that one head can read it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.steering.reading.path_patching.modes import PARTS, Part


class NoSplitError(ValueError):
    """No head of a block can read another input than the rest."""


class Projections:
    """The projections of one block's attention.

    Args:
        model: The model.
        block: The block's number.

    Raises:
        NoSplitError: They are not three linear maps of their own, so that no head can read another input than the rest.
    """

    def __init__(self, model: Any, block: int) -> None:
        self._bridge = isinstance(model, TransformerBridge)
        self._attention: Any = model.blocks[block].attn
        self._cfg = model.cfg
        modules = self._attention._modules
        apart = (
            all(getattr(modules.get(part), "original_component", None) is not None for part in PARTS)
            if self._bridge
            else not getattr(model.cfg, "load_in_4bit", False)
        )
        if not apart:
            raise NoSplitError(
                f"Attention of block {block} in this {type(model).__name__} ({type(self._attention).__name__}) has no q, k and v projections of its own "
                "in full precision, so that no head alone can read with or without the vector. Use the modes of the whole block."
            )

    @property
    def heads(self) -> dict[Part, int]:
        """How many heads each has: of grouped-query attention fewer for k and v than for q."""
        queries = int(self._cfg.n_heads)
        grouped = not getattr(self._cfg, "ungroup_grouped_query_attention", False)
        keys = getattr(self._cfg, "n_key_value_heads", None) if grouped else None
        return {"q": queries, "k": int(keys or queries), "v": int(keys or queries)}

    def read(self, part: Part, x: torch.Tensor) -> torch.Tensor:
        """Project what attention reads.

        Args:
            part: Which projection.
            x: [batch, pos, d_model], after the norm where the block has one before attention.

        Returns:
            [batch, pos, heads, d_head], before rotary embeddings.
        """
        if self._bridge:
            found = self._attention._modules[part].original_component(x)
        else:
            # Grouped keys and values: the weights as they are, not repeated for every query head.
            name = part.upper()
            grouped = "" if self.heads[part] == self._cfg.n_heads else "_"
            weight = getattr(self._attention, f"{grouped}W_{name}")  # [heads, d_model, d_head]
            bias = getattr(self._attention, f"{grouped}b_{name}")
            found = functional.linear(x, weight.transpose(1, 2).flatten(0, 1), bias.flatten())
        return found.unflatten(-1, (self.heads[part], -1))


def require_heads(
    caller: str, model: Any, block: int, heads: Mapping[Part, int], part: Part, head: int
) -> None:
    """Raise ValueError unless a projection has a head."""
    if head >= heads[part]:
        kind = "query" if part == "q" else "key-value"
        raise ValueError(
            f"{caller} was given head {head} of {part}, but block {block} of this {type(model).__name__} has {heads[part]} {kind} heads. Give one from 0 to "
            f"{heads[part] - 1}."
        )

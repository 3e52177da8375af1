"""Active residual features at drawn tokens, as columns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True, eq=False)
class Occurrences:
    """Active residual features at drawn tokens, one for each; by batch, hook, token and feature."""

    hook: torch.Tensor
    """Which of the hooks, [n], int32."""
    context: torch.Tensor
    """Row of the context among those of all texts: the sample, [n], int32."""
    position: torch.Tensor
    """The token's position in the context, [n], int32."""
    feature: torch.Tensor
    """The active feature, [n], int32."""
    group: torch.Tensor
    """Which predecessors are active there: the code of a group in `GROUPS`, [n], int8."""

    @classmethod
    def joined(cls, parts: Sequence["Occurrences"]) -> "Occurrences":
        """Put occurrences one after another."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})

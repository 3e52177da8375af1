"""What an intervention adds to an activation: a vector that is known, decoder rows times what an SAE reads there, or anything computed from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE


@dataclass(frozen=True, eq=False)
class AddedVector:
    """h += strength · v, or with `relative` h += strength · ‖h‖ · v / ‖v‖."""

    vector: torch.Tensor
    """v, [d_in]."""
    strength: float
    """In units of v, or of ‖h‖."""
    relative: bool
    """Whether the strength is in units of ‖h‖."""

    @property
    def fixed(self) -> bool:
        """Whether what is added is known before the model runs: nobody trains the vector."""
        return not self.vector.requires_grad

    def direction(self, like: torch.Tensor) -> torch.Tensor:
        """Give what the strength multiplies, [d_in], on the device of `like`, float32 or more precise."""
        vector = self.vector.to(like.device)
        vector = vector.to(torch.promote_types(vector.dtype, torch.float32))
        return vector / vector.norm() if self.relative else vector


@dataclass(frozen=True, eq=False)
class LatentChange:
    """h += (gain · a + offset) · d, with the live activation a of a latent and what it adds to the reconstruction, d."""

    sae: SAE[Any]
    """An inference SAE."""
    index: int
    """The latent."""
    gain: float
    """Of its activation."""
    offset: float
    """In units of its activation."""


@dataclass(frozen=True, eq=False)
class ComputedChange:
    """h += f(h), token by token: for interventions of others' making."""

    change: Callable[[torch.Tensor], torch.Tensor]
    """f: of activations [n, d_in] in float32 or more precise, heads flattened; gives what is added, [n, d_in]. It must not mix tokens."""


Effect = AddedVector | LatentChange | ComputedChange

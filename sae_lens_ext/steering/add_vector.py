"""Add a vector to the activations: activation addition (arXiv 2308.10248, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sae_lens_ext.language_model import Site
from sae_lens_ext.number_checks import require_bool, require_number
from sae_lens_ext.steering.effects import AddedVector
from sae_lens_ext.steering.intervention import SingleIntervention
from sae_lens_ext.steering.token_selection import PHASES, Positions, TokenSelection


@dataclass(frozen=True, eq=False)
class AddVector(SingleIntervention):
    """h += strength · v, at the tokens selected.

    Gradients reach a vector that requires them, so that it can be trained; it is read at every pass, and may be changed in place between
    passes. Any other vector is read once, when the block of `steer` begins. It acts on BOS too, unless `positions=slice(1, None)`.

    Raises:
        ValueError: The vector is not one of finite numbers [d]; the strength is not finite; positions or phases are none.
    """

    hook_name: str
    """Where, under any name the model knows."""
    vector: torch.Tensor
    """v, [d] in the width of the activations; at a hook with heads, all of them flattened, [n_heads · d_head]."""
    strength: float = 1.0
    """How many v are added; negative takes them away."""
    positions: Positions = None
    """Which tokens; see `steer`."""
    phases: Sequence[str] = PHASES
    """Whether in the prompt, in what is generated, or both."""
    relative: bool = False
    """Then the strength is in units of each token's ‖h‖, and v counts by its direction alone: h += strength · ‖h‖ · v / ‖v‖."""

    def __post_init__(self) -> None:
        if not isinstance(self.hook_name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"AddVector was given {type(self.hook_name).__name__} as the hook name. Give a string."
            )
        object.__setattr__(self, "strength", require_number("AddVector", "strength", self.strength))
        require_bool("AddVector", "relative", self.relative)
        _ = self.tokens
        self.effect()

    def __repr__(self) -> str:
        return self._shown(repr(self.hook_name), f"[{len(self.vector)}]", always=("strength",))

    def __mul__(self, factor: float) -> "AddVector":
        return replace(self, strength=self.strength * self._factor(factor))

    @property
    def site(self) -> Site:
        """The hook."""
        return Site(self.hook_name)

    @property
    def tokens(self) -> TokenSelection:
        """Which tokens it acts on."""
        return TokenSelection("AddVector", self.positions, self.phases)

    def effect(self) -> AddedVector:
        """Give what it adds.

        Raises:
            ValueError: The vector is not one of finite numbers.
        """
        vector: Any = self.vector
        if (
            not isinstance(vector, torch.Tensor)
            or not vector.is_floating_point()
            or vector.ndim != 1
            or vector.numel() == 0
        ):
            what = (
                f"{tuple(vector.shape)}, {vector.dtype}"
                if isinstance(vector, torch.Tensor)
                else type(vector).__name__
            )
            raise ValueError(
                f"AddVector was given a vector that is {what}. Give a tensor of floating-point numbers [d]."
            )
        if vector.is_meta:
            raise ValueError(
                "AddVector was given a vector on the meta device, without its numbers. Load the weights it is of first."
            )
        if not torch.isfinite(vector).all():
            raise ValueError(
                "AddVector was given a vector with NaN or infinity in it. Look at where it was computed."
            )
        if self.relative and not vector.any():
            raise ValueError(
                "AddVector was given a vector of zeros and relative=True, but zeros have no direction. Give another."
            )
        return AddedVector(vector, self.strength, self.relative)

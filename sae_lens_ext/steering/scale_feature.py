"""Multiply a feature's activation: the rescaling of arXiv 2502.03032, section 3.4, h += (r − 1) · a · d."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sae_lens import SAE

from sae_lens_ext.number_checks import require_number
from sae_lens_ext.steering.live_feature import LiveFeature
from sae_lens_ext.steering.token_selection import PHASES, Positions


@dataclass(frozen=True, eq=False, repr=False)
class ScaleFeature(LiveFeature):
    """h += (r − 1) · a · d, with the feature's activation a as the SAE reads it there, and its decoder row d as the SAE has it.

    Where the feature is not active nothing is added. What the SAE does not reconstruct stays as it is. Several of one feature at one
    token add up, each computed from a; with the factor 0 it sets the activation, and then nothing else may set it there.
    Gradients reach the activations h, and not the SAE.

    SAEs are trained without BOS, and on its activation, which is unlike any other, many features fire: give `positions=slice(1, None)`
    to leave BOS alone.

    Raises:
        ValueError: There is no such feature; the SAE names no hook, is a transcoder, or cannot be steered with; the factor,
            positions or phases are none. While the model runs: something else sets the feature at the same token.
    """

    sae: SAE[Any]
    """The SAE."""
    index: int
    """The feature."""
    factor: float
    """r: 1 changes nothing, 0 removes the feature, below 0 subtracts more than it adds."""
    hook_name: str | None = None
    """Where; by default where the SAE's metadata say it reads."""
    positions: Positions = None
    """Which tokens; see `steer`."""
    phases: Sequence[str] = PHASES
    """Whether in the prompt, in what is generated, or both."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", require_number("ScaleFeature", "factor", self.factor))
        super().__post_init__()

    def __mul__(self, factor: float) -> "ScaleFeature":
        return replace(self, factor=1 + self._factor(factor) * (self.factor - 1))

    @property
    def sets_a_value(self) -> bool:
        """With the factor 0, to 0."""
        return self.factor == 0

    def _gain_and_offset(self) -> tuple[float, float]:
        return self.factor - 1, 0.0

"""Set a feature's activation to a value (feature clamping: "Scaling Monosemanticity", Templeton et al. 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sae_lens import SAE

from sae_lens_ext.number_checks import require_number
from sae_lens_ext.steering.live_feature import LiveFeature
from sae_lens_ext.steering.token_selection import PHASES, Positions


@dataclass(frozen=True, eq=False, repr=False)
class ClampFeature(LiveFeature):
    """h += decode(z with z_i = value) − decode(z), that is (value − a) · d: what the SAE does not reconstruct stays as it is.

    Gradients reach the activations h, and not the SAE. Nothing else may set the feature at the same token.

    SAEs are trained without BOS, and on its activation, which is unlike any other, many features fire: give `positions=slice(1, None)`
    to leave BOS alone.

    Raises:
        ValueError: There is no such feature; the SAE names no hook, is a transcoder, or cannot be steered with; a number,
            positions or phases are none. While the model runs: something else sets the feature at the same token.
    """

    sae: SAE[Any]
    """The SAE."""
    index: int
    """The feature."""
    value: float
    """Its activation, in the SAE's units."""
    hook_name: str | None = None
    """Where; by default where the SAE's metadata say it reads."""
    positions: Positions = None
    """Which tokens; see `steer`."""
    phases: Sequence[str] = PHASES
    """Whether in the prompt, in what is generated, or both."""
    weight: float = 1.0
    """Share of the way to the value that is gone: at 0.5 the feature ends half way between a and the value. `2 * a` doubles it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", require_number("ClampFeature", "value", self.value))
        object.__setattr__(self, "weight", require_number("ClampFeature", "weight", self.weight))
        super().__post_init__()

    def __mul__(self, factor: float) -> "ClampFeature":
        return replace(self, weight=self.weight * self._factor(factor))

    @property
    def sets_a_value(self) -> bool:
        """To `value`, or a part of the way."""
        return True

    def _gain_and_offset(self) -> tuple[float, float]:
        return -self.weight, self.weight * self.value

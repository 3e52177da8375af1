"""Take a feature away: what it adds to the reconstruction is subtracted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sae_lens import SAE

from sae_lens_ext.steering.live_feature import LiveFeature
from sae_lens_ext.steering.scale_feature import ScaleFeature
from sae_lens_ext.steering.token_selection import PHASES, Positions


@dataclass(frozen=True, eq=False, repr=False)
class AblateFeature(LiveFeature):
    """h −= a · d: `ScaleFeature` with the factor 0. Multiplied by a number it is a `ScaleFeature`.

    SAEs are trained without BOS, and on its activation, which is unlike any other, many features fire: give `positions=slice(1, None)`
    to leave BOS alone.

    Raises:
        ValueError: As `ScaleFeature`.
    """

    sae: SAE[Any]
    """The SAE."""
    index: int
    """The feature."""
    hook_name: str | None = None
    """Where; by default where the SAE's metadata say it reads."""
    positions: Positions = None
    """Which tokens; see `steer`."""
    phases: Sequence[str] = PHASES
    """Whether in the prompt, in what is generated, or both."""

    def __mul__(self, factor: float) -> ScaleFeature:
        return ScaleFeature(
            self.sae, self.index, 1 - self._factor(factor), self.hook_name, self.positions, self.phases
        )

    @property
    def sets_a_value(self) -> bool:
        """To 0."""
        return True

    def _gain_and_offset(self) -> tuple[float, float]:
        return -1.0, 0.0

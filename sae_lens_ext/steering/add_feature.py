"""Add a feature's direction to the activations, active or not (activation steering, arXiv 2502.03032, section 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sae_lens import SAE

from sae_lens_ext.language_model import Site
from sae_lens_ext.number_checks import require_bool, require_number
from sae_lens_ext.steering.effects import AddedVector
from sae_lens_ext.steering.feature_checks import feature_site, require_feature, sae_name, unit_row
from sae_lens_ext.steering.intervention import SingleIntervention
from sae_lens_ext.steering.token_selection import PHASES, Positions, TokenSelection


@dataclass(frozen=True, eq=False)
class AddFeature(SingleIntervention):
    """h += strength · d, with the feature's decoder row d at unit length, whatever its length in the SAE.

    It acts on BOS too, unless `positions=slice(1, None)`.

    Raises:
        ValueError: There is no such feature, or it has no direction; the SAE names no hook, or cannot be steered with; a number,
            positions or phases are none.
    """

    sae: SAE[Any]
    """The SAE, or a transcoder."""
    index: int
    """The feature."""
    strength: float
    """Length of what is added, in the units of the activations; negative takes it away."""
    hook_name: str | None = None
    """Where; by default where the SAE's metadata say it writes (`hook_name_out` of a transcoder)."""
    positions: Positions = None
    """Which tokens; see `steer`."""
    phases: Sequence[str] = PHASES
    """Whether in the prompt, in what is generated, or both."""
    relative: bool = False
    """Then the strength is in units of each token's ‖h‖: h += strength · ‖h‖ · d."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", require_feature("AddFeature", self.sae, self.index))
        object.__setattr__(self, "strength", require_number("AddFeature", "strength", self.strength))
        require_bool("AddFeature", "relative", self.relative)
        _ = self.site, self.tokens
        self.effect()

    def __repr__(self) -> str:
        return self._shown(repr(sae_name(self.sae)), str(self.index))

    def __mul__(self, factor: float) -> "AddFeature":
        return replace(self, strength=self.strength * self._factor(factor))

    @property
    def site(self) -> Site:
        """The hook, and the SAE's head."""
        return feature_site("AddFeature", self.sae, self.hook_name)

    @property
    def tokens(self) -> TokenSelection:
        """Which tokens it acts on."""
        return TokenSelection("AddFeature", self.positions, self.phases)

    def effect(self) -> AddedVector:
        """Give what it adds."""
        row = unit_row("AddFeature", self.sae, self.index)
        return AddedVector(row, self.strength, self.relative)

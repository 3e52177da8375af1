"""What interventions on a feature's live activation have in common."""

from abc import abstractmethod
from typing import Any

from sae_lens import SAE

from sae_lens_ext.language_model import Site
from sae_lens_ext.steering.effects import LatentChange
from sae_lens_ext.steering.feature_checks import (
    feature_site,
    require_feature,
    require_reads_where_it_writes,
    sae_name,
)
from sae_lens_ext.steering.intervention import SingleIntervention
from sae_lens_ext.steering.token_selection import TokenSelection


class LiveFeature(SingleIntervention):
    """An intervention that reads a feature's activation a from the activations it changes.

    A subclass is a dataclass with the fields `sae`, `index`, `hook_name`, `positions`, `phases`.
    """

    sae: Any
    index: Any
    hook_name: Any
    positions: Any
    phases: Any

    def __post_init__(self) -> None:
        owner = type(self).__name__
        object.__setattr__(self, "index", require_feature(owner, self.sae, self.index))
        require_reads_where_it_writes(owner, self.sae)
        _ = self.site, self.tokens

    @property
    def site(self) -> Site:
        """The hook, and the SAE's head."""
        return feature_site(type(self).__name__, self.sae, self.hook_name)

    @property
    def tokens(self) -> TokenSelection:
        """Which tokens it acts on."""
        return TokenSelection(type(self).__name__, self.positions, self.phases)

    @abstractmethod
    def _gain_and_offset(self) -> tuple[float, float]:
        """Give g and c of the change (g · a + c) · d."""

    def effect(self) -> LatentChange:
        """Give what it adds."""
        sae: SAE[Any] = self.sae
        gain, offset = self._gain_and_offset()
        return LatentChange(sae, self.index, gain, offset)

    @property
    @abstractmethod
    def sets_a_value(self) -> bool:
        """Whether the feature has a given activation after it, and not a multiple of what it had."""

    def __repr__(self) -> str:
        return self._shown(repr(sae_name(self.sae)), str(self.index))

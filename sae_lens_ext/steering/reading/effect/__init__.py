"""What a steering vector changes further up in the model: at the last block, and from block to block."""

from sae_lens_ext.steering.reading.effect.persistence import persistence
from sae_lens_ext.steering.reading.effect.persistence_result import Persistence
from sae_lens_ext.steering.reading.effect.propagated_effect import propagated_effect
from sae_lens_ext.steering.reading.effect.propagated_result import PropagatedEffect

__all__ = ["Persistence", "PropagatedEffect", "persistence", "propagated_effect"]

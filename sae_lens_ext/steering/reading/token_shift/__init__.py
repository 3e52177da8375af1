"""Where a steering acts, token by token (arXiv 2509.06608)."""

from sae_lens_ext.steering.reading.token_shift.measure import token_shift
from sae_lens_ext.steering.reading.token_shift.result import Concentration, TokenShift
from sae_lens_ext.steering.reading.token_shift.shifts import Shifts

__all__ = ["Concentration", "Shifts", "TokenShift", "token_shift"]

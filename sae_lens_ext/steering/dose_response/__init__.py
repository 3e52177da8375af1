"""What a steering does to what a model writes, against its strength."""

from sae_lens_ext.bootstrap import Estimate
from sae_lens_ext.steering.dose_response.behaviour import Behaviour, presence_of_words, share_of_words
from sae_lens_ext.steering.dose_response.compare import plot_dose_responses
from sae_lens_ext.steering.dose_response.measure import dose_response
from sae_lens_ext.steering.dose_response.result import Completion, DoseResponse, DoseRow

__all__ = [
    "Behaviour",
    "Completion",
    "DoseResponse",
    "DoseRow",
    "Estimate",
    "dose_response",
    "plot_dose_responses",
    "presence_of_words",
    "share_of_words",
]

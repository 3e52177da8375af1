"""What a steering does to what a model writes, against its strength."""

from sae_lens_ext.bootstrap import Estimate
from sae_lens_ext.steering.dose_response.behaviour import Behaviour, presence_of_words, share_of_words
from sae_lens_ext.steering.dose_response.compare import compare_dose_responses
from sae_lens_ext.steering.dose_response.measure import dose_response
from sae_lens_ext.steering.dose_response.result import Completion, DoseResponse, DoseRow

__all__ = [
    "Behaviour",
    "Completion",
    "DoseResponse",
    "DoseRow",
    "Estimate",
    "compare_dose_responses",
    "dose_response",
    "presence_of_words",
    "share_of_words",
]

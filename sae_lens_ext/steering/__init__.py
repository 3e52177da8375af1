"""Acting on a model: steering by vectors, SAE features and flow graphs, in forward passes and while it generates."""

from sae_lens_ext.steering.ablate_feature import AblateFeature
from sae_lens_ext.steering.add_feature import AddFeature
from sae_lens_ext.steering.add_vector import AddVector
from sae_lens_ext.steering.clamp_feature import ClampFeature
from sae_lens_ext.steering.dose_response import (
    DoseResponse,
    dose_response,
    plot_dose_responses,
    presence_of_words,
    share_of_words,
)
from sae_lens_ext.steering.flow_steering import flow_steering
from sae_lens_ext.steering.intervention import Intervention, InterventionSum
from sae_lens_ext.steering.scale_feature import ScaleFeature
from sae_lens_ext.steering.steer import steer

__all__ = [
    "AblateFeature",
    "AddFeature",
    "AddVector",
    "ClampFeature",
    "DoseResponse",
    "Intervention",
    "InterventionSum",
    "ScaleFeature",
    "dose_response",
    "flow_steering",
    "plot_dose_responses",
    "presence_of_words",
    "share_of_words",
    "steer",
]

"""How features flow through the layers of a model: matches, origins, graphs, and the checks of them by data."""

from sae_lens_ext.analysis.flow.activity import (
    OriginAgreement,
    PredecessorActivity,
    origin_agreement,
    predecessor_activity,
)
from sae_lens_ext.analysis.flow.deactivation import DeactivationResult, deactivation_test
from sae_lens_ext.analysis.flow.graph import FlowGraph
from sae_lens_ext.analysis.flow.match import FeatureMatch, match_features
from sae_lens_ext.analysis.flow.origins import FeatureOrigins, feature_origins
from sae_lens_ext.analysis.flow.pearson import pearson_matches
from sae_lens_ext.analysis.flow.sites import FlowSite, FlowSites, flow_site
from sae_lens_ext.analysis.flow.thresholds import FlowThresholds
from sae_lens_ext.analysis.flow.top_activations import TopActivations, top_activations
from sae_lens_ext.analysis.flow.trace import trace_feature, trace_features
from sae_lens_ext.analysis.flow.transition import TransitionResult, transition_explained_variance
from sae_lens_ext.analysis.flow.whole_model import flow_map

__all__ = [
    "DeactivationResult",
    "FeatureMatch",
    "FeatureOrigins",
    "FlowGraph",
    "FlowSite",
    "FlowSites",
    "FlowThresholds",
    "OriginAgreement",
    "PredecessorActivity",
    "TopActivations",
    "TransitionResult",
    "deactivation_test",
    "feature_origins",
    "flow_map",
    "flow_site",
    "match_features",
    "origin_agreement",
    "pearson_matches",
    "predecessor_activity",
    "top_activations",
    "trace_feature",
    "trace_features",
    "transition_explained_variance",
]

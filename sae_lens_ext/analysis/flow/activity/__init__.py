"""The check of origins by data: which predecessors of a feature are active where the feature is."""

from sae_lens_ext.analysis.flow.activity.agreement import origin_agreement
from sae_lens_ext.analysis.flow.activity.agreement_result import OriginAgreement
from sae_lens_ext.analysis.flow.activity.groups import GROUPS, group_name
from sae_lens_ext.analysis.flow.activity.measure import predecessor_activity
from sae_lens_ext.analysis.flow.activity.result import PredecessorActivity

__all__ = [
    "GROUPS",
    "OriginAgreement",
    "PredecessorActivity",
    "group_name",
    "origin_agreement",
    "predecessor_activity",
]

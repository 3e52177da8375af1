"""What authors of further architectures, analyses and interventions build on: docs/extending.md shows how.

These names are kept as the public ones are; the modules they come from are not.
"""

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.provenance import model_name, tokens_read, versions
from sae_lens_ext.analysis.result_files import (
    load_result,
    load_result_with_tensors,
    save_result,
    save_result_with_tensors,
)
from sae_lens_ext.analysis.texts import pack_texts, require_detached, special_tokens
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.ranked_latents import RankedLatents
from sae_lens_ext.architectures.ranked_training import DeadLatents, RankedTrainingSAE
from sae_lens_ext.architectures.sae_checks import ChecksInput, require_sae
from sae_lens_ext.architectures.saving import SavedWhole
from sae_lens_ext.architectures.sparse_topk import SparseTopKTrainingSAE, SparseTopKTrainingSAEConfig
from sae_lens_ext.architectures.training_step import require_finite_activations, train_step_output
from sae_lens_ext.architectures.validation import (
    FOLDABLE_NORMALIZATIONS,
    RefusesUnknownFields,
    require_normalization,
    require_positive_int,
)
from sae_lens_ext.language_model import Site, read_activations
from sae_lens_ext.steering.effects import AddedVector, ComputedChange, LatentChange
from sae_lens_ext.steering.intervention import SingleIntervention
from sae_lens_ext.steering.live_feature import LiveFeature
from sae_lens_ext.steering.token_selection import PHASES, Positions, TokenSelection
from sae_lens_ext.steering.training.reward_calls import Reward

__all__ = [
    "FOLDABLE_NORMALIZATIONS",
    "PHASES",
    "AddedVector",
    "ChecksInput",
    "ComputedChange",
    "DeadLatents",
    "LatentChange",
    "LiveFeature",
    "Positions",
    "RankedLatents",
    "RankedTrainingSAE",
    "RefusesUnknownFields",
    "Reward",
    "SavedWhole",
    "SingleIntervention",
    "Site",
    "SparseTopKTrainingSAE",
    "SparseTopKTrainingSAEConfig",
    "TokenSelection",
    "load_result",
    "load_result_with_tensors",
    "model_name",
    "notebook_view",
    "pack_texts",
    "read_activations",
    "require_detached",
    "require_finite_activations",
    "require_normalization",
    "require_positive_int",
    "require_sae",
    "save_result",
    "save_result_with_tensors",
    "special_tokens",
    "tokens_read",
    "train_step_output",
    "versions",
    "weights_fingerprint",
]

"""SAE architectures that SAELens loads by name, one file per paper."""

from sae_lens_ext.architectures.budgets import BudgetCurve, budget_curve, with_k
from sae_lens_ext.architectures.catalogue import (
    cite,
    describe,
    list_architectures,
    register_architectures,
)
from sae_lens_ext.architectures.fold_thresholds import fold_thresholds
from sae_lens_ext.architectures.hierarchical_topk import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
)
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.kron import (
    KronSAE,
    KronSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
)
from sae_lens_ext.architectures.loading import load_sae
from sae_lens_ext.architectures.residual import ResidualTrainingSAE, ResidualTrainingSAEConfig
from sae_lens_ext.architectures.residual_stack import ResidualStackSAE, ResidualStackSAEConfig
from sae_lens_ext.architectures.saving import save_sae
from sae_lens_ext.architectures.training_step import NonFiniteTrainingError

__all__ = [
    "BudgetCurve",
    "HierarchicalTopKTrainingSAE",
    "HierarchicalTopKTrainingSAEConfig",
    "KronSAE",
    "KronSAEConfig",
    "KronTrainingSAE",
    "KronTrainingSAEConfig",
    "NonFiniteTrainingError",
    "ResidualStackSAE",
    "ResidualStackSAEConfig",
    "ResidualTrainingSAE",
    "ResidualTrainingSAEConfig",
    "budget_curve",
    "cite",
    "describe",
    "fold_thresholds",
    "list_architectures",
    "load_sae",
    "register_architectures",
    "save_sae",
    "weights_fingerprint",
    "with_k",
]

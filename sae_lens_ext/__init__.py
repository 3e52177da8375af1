"""New sparse-autoencoder architectures and analysis tools for SAELens and TransformerLens.

Importing this package registers its architectures, so that SAELens trains and loads them by name.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sae_lens_ext.architectures import (
    BudgetCurve,
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronSAE,
    KronSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
    NonFiniteTrainingError,
    ResidualStackSAE,
    ResidualStackSAEConfig,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
    budget_curve,
    cite,
    describe,
    fold_thresholds,
    list_architectures,
    load_sae,
    register_architectures,
    save_sae,
    weights_fingerprint,
    with_k,
)
from sae_lens_ext.language_model import mix_datasets
from sae_lens_ext.lazy_names import MODULE_OF, NEW_NAME_OF

if TYPE_CHECKING:
    from sae_lens_ext.analysis.collapse import (
        CollapseReport,
        collapse_report,
        matrix_entropy,
        plot_collapse,
        separability,
        sequence_entropies,
    )
    from sae_lens_ext.analysis.domains import DomainReport, evaluate_domains
    from sae_lens_ext.analysis.flow import (
        DeactivationResult,
        FeatureMatch,
        FeatureOrigins,
        FlowGraph,
        FlowThresholds,
        OriginAgreement,
        PredecessorActivity,
        TopActivations,
        TransitionResult,
        deactivation_test,
        feature_origins,
        flow_map,
        match_features,
        origin_agreement,
        pearson_matches,
        predecessor_activity,
        top_activations,
        trace_feature,
        trace_features,
        transition_explained_variance,
    )
    from sae_lens_ext.analysis.new_latents import NewLatents, compare_new_latents
    from sae_lens_ext.analysis.seeds import train_seeds
    from sae_lens_ext.analysis.stability import (
        FeatureRecovery,
        FiringRates,
        LowRankFeatureModel,
        MaskingCurve,
        StabilityProbe,
        StabilityReport,
        SubspaceReport,
        feature_stability,
        firing_rates_on,
        masking_curve,
        measure_firing_rates,
        pool_features,
        retrain_encoder,
        stability_probe,
        subspace_report,
    )
    from sae_lens_ext.embedded import embedded_texts, list_embedded_texts, load_embedded_model
    from sae_lens_ext.hub import HubUpload, HubUploadError, model_card, upload_to_hub
    from sae_lens_ext.lime.arithmetic import (
        ArithmeticAccuracy,
        ArithmeticExamples,
        arithmetic_accuracy,
        arithmetic_examples,
    )
    from sae_lens_ext.lime.attach import (
        attach_lime,
    )
    from sae_lens_ext.lime.reading import (
        DepthwiseCircuits,
        RouterMap,
        depthwise_circuits,
        router_map,
    )
    from sae_lens_ext.lime.routers import (
        LimeRouters,
    )
    from sae_lens_ext.lime.training import (
        LanguageModelLoss,
        LanguageModelTraining,
        language_model_loss,
        train_language_model,
    )
    from sae_lens_ext.ranks import RankError
    from sae_lens_ext.saved import Saved, check_saved
    from sae_lens_ext.steering import (
        AblateFeature,
        AddFeature,
        AddVector,
        ClampFeature,
        DoseResponse,
        Intervention,
        InterventionSum,
        ScaleFeature,
        dose_response,
        flow_steering,
        plot_dose_responses,
        share_of_words,
        steer,
    )
    from sae_lens_ext.steering.reading.effect import (
        Persistence,
        PropagatedEffect,
        persistence,
        propagated_effect,
    )
    from sae_lens_ext.steering.reading.gains import (
        PairGain,
        PairGains,
        Transfer,
        pair_gain,
        pair_gains,
        transfer,
    )
    from sae_lens_ext.steering.reading.lens import (
        LogitLensResult,
        logit_lens,
    )
    from sae_lens_ext.steering.reading.path_patching import (
        PathMode,
        PathPatching,
        patched_paths,
        path_patching,
    )
    from sae_lens_ext.steering.reading.token_shift import (
        TokenShift,
        token_shift,
    )
    from sae_lens_ext.steering.rewards import (
        BoxedEquals,
        LastNumberEquals,
        LengthWithin,
        MatchesPattern,
    )
    from sae_lens_ext.steering.sequences import (
        Sequences,
    )
    from sae_lens_ext.steering.training import (
        EarlyStop,
        RewardError,
        RewardMeasurement,
        TrainingLog,
        learning_rates_by_depth,
        measure_reward,
        plot_training_logs,
        train_steering_vectors,
    )
    from sae_lens_ext.steering.vectors import (
        SteeringVectors,
    )
    from sae_lens_ext.training.divided import DividedRunner
    from sae_lens_ext.training.runner import DataParallelRunner
    from sae_lens_ext.training.tensor_parallel import TensorParallelRunner

__version__ = "0.1.0"

register_architectures()

__all__ = [
    "AblateFeature",
    "AddFeature",
    "AddVector",
    "ArithmeticAccuracy",
    "ArithmeticExamples",
    "BoxedEquals",
    "BudgetCurve",
    "ClampFeature",
    "CollapseReport",
    "DataParallelRunner",
    "DeactivationResult",
    "DepthwiseCircuits",
    "DividedRunner",
    "DomainReport",
    "DoseResponse",
    "EarlyStop",
    "FeatureMatch",
    "FeatureOrigins",
    "FeatureRecovery",
    "FiringRates",
    "FlowGraph",
    "FlowThresholds",
    "HierarchicalTopKTrainingSAE",
    "HierarchicalTopKTrainingSAEConfig",
    "HubUpload",
    "HubUploadError",
    "Intervention",
    "InterventionSum",
    "KronSAE",
    "KronSAEConfig",
    "KronTrainingSAE",
    "KronTrainingSAEConfig",
    "LanguageModelLoss",
    "LanguageModelTraining",
    "LastNumberEquals",
    "LengthWithin",
    "LimeRouters",
    "LogitLensResult",
    "LowRankFeatureModel",
    "MaskingCurve",
    "MatchesPattern",
    "NewLatents",
    "NonFiniteTrainingError",
    "OriginAgreement",
    "PairGain",
    "PairGains",
    "PathMode",
    "PathPatching",
    "Persistence",
    "PredecessorActivity",
    "PropagatedEffect",
    "RankError",
    "ResidualStackSAE",
    "ResidualStackSAEConfig",
    "ResidualTrainingSAE",
    "ResidualTrainingSAEConfig",
    "RewardError",
    "RewardMeasurement",
    "RouterMap",
    "Saved",
    "ScaleFeature",
    "Sequences",
    "StabilityProbe",
    "StabilityReport",
    "SteeringVectors",
    "SubspaceReport",
    "TensorParallelRunner",
    "TokenShift",
    "TopActivations",
    "TrainingLog",
    "Transfer",
    "TransitionResult",
    "arithmetic_accuracy",
    "arithmetic_examples",
    "attach_lime",
    "budget_curve",
    "check_saved",
    "cite",
    "collapse_report",
    "compare_new_latents",
    "deactivation_test",
    "depthwise_circuits",
    "describe",
    "dose_response",
    "embedded_texts",
    "evaluate_domains",
    "feature_origins",
    "feature_stability",
    "firing_rates_on",
    "flow_map",
    "flow_steering",
    "fold_thresholds",
    "language_model_loss",
    "learning_rates_by_depth",
    "list_architectures",
    "list_embedded_texts",
    "load_embedded_model",
    "load_sae",
    "logit_lens",
    "masking_curve",
    "match_features",
    "matrix_entropy",
    "measure_firing_rates",
    "measure_reward",
    "mix_datasets",
    "model_card",
    "origin_agreement",
    "pair_gain",
    "pair_gains",
    "patched_paths",
    "path_patching",
    "pearson_matches",
    "persistence",
    "plot_collapse",
    "plot_dose_responses",
    "plot_training_logs",
    "pool_features",
    "predecessor_activity",
    "propagated_effect",
    "retrain_encoder",
    "router_map",
    "save_sae",
    "separability",
    "sequence_entropies",
    "share_of_words",
    "stability_probe",
    "steer",
    "subspace_report",
    "token_shift",
    "top_activations",
    "trace_feature",
    "trace_features",
    "train_language_model",
    "train_seeds",
    "train_steering_vectors",
    "transfer",
    "transition_explained_variance",
    "upload_to_hub",
    "weights_fingerprint",
    "with_k",
]


def __getattr__(name: str) -> Any:
    """Import what is dear only when it is asked for, by its old name as well."""
    if name in NEW_NAME_OF:
        new = NEW_NAME_OF[name]
        warnings.warn(
            f"sae_lens_ext.{name} is called {new} now. Write {new}, which is the same.",
            DeprecationWarning,
            stacklevel=2,
        )
        name = new
    if name in MODULE_OF:
        return getattr(import_module(MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""A small object of every result class that can be saved."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from sae_lens_ext.analysis.flow.activity.agreement_result import OriginAgreement
from sae_lens_ext.analysis.flow.activity.occurrences import Occurrences
from sae_lens_ext.analysis.flow.activity.result import PredecessorActivity
from sae_lens_ext.analysis.flow.match import FeatureMatch
from sae_lens_ext.analysis.flow.origins import FeatureOrigins
from sae_lens_ext.analysis.flow.thresholds import FlowThresholds
from sae_lens_ext.analysis.flow.top_activations.result import SiteTops, TopActivations
from sae_lens_ext.analysis.new_latents import Context, LatentPair, LatentUse, NewLatents
from sae_lens_ext.analysis.stability.firing_result import FiringRates
from sae_lens_ext.analysis.stability.geometry.probe_result import ProbeScore, StabilityProbe
from sae_lens_ext.bootstrap import Estimate
from sae_lens_ext.lime.arithmetic.result import ArithmeticAccuracy
from sae_lens_ext.lime.reading.circuits.circuit import Served, ServedToken
from sae_lens_ext.lime.reading.circuits.result import DepthwiseCircuits
from sae_lens_ext.lime.reading.maps.result import RouterMap
from sae_lens_ext.lime.training.loss_result import LanguageModelLoss
from sae_lens_ext.lime.training.result import LanguageModelTraining
from sae_lens_ext.steering.reading.effect.persistence_result import Persistence
from sae_lens_ext.steering.reading.effect.propagated_result import PropagatedEffect
from sae_lens_ext.steering.reading.gains.pair_gain import PairGain
from sae_lens_ext.steering.reading.gains.pair_gains import PairGainRow, PairGains
from sae_lens_ext.steering.reading.gains.transfer import Transfer
from sae_lens_ext.steering.reading.lens.result import LogitLensResult
from sae_lens_ext.steering.reading.path_patching.result import PathPatching, PathRow
from sae_lens_ext.steering.reading.token_shift.result import TokenShift
from sae_lens_ext.steering.reading.token_shift.shifts import Shifts
from sae_lens_ext.steering.sequences import Sequences
from sae_lens_ext.steering.training.reward_measurement import RewardMeasurement
from tests.analysis.collapse.test_result import made as collapse_report
from tests.analysis.flow.deactivation.test_deactivation_result import RESULT as DEACTIVATION
from tests.analysis.flow.page.graphs import graph_of, hook
from tests.analysis.flow.test_transition import RESULT as TRANSITION
from tests.analysis.stability.geometry.test_subspaces_result import small as subspace_report
from tests.analysis.stability.masking.test_masking_result import CURVE
from tests.analysis.stability.synthetic.test_synthetic_recovery_result import RESULT as RECOVERY
from tests.analysis.stability.test_stability_report import REPORT as STABILITY
from tests.analysis.test_domain_report import REPORT as DOMAINS
from tests.steering.dose_response.test_result import response

MADE: dict[str, Any] = {"model_name": "tiny", "seed": 0, "texts": {"a": 0.1}}
NEAR = Estimate(0.5, 0.25, 0.75)


def saved_results(text: str = " word") -> list[Any]:
    """Give one object of each class.

    Args:
        text: Stands where tokens and labels of the user's do.
    """
    origins = FeatureOrigins(
        {"residual": torch.tensor([0.25, 0.5])},
        {"residual": torch.tensor([1, 0])},
        {"residual": torch.tensor([0.5, 1.0])},
        FlowThresholds(0.5, 0.25, 0.25, 0.125),
        MADE,
    )
    context = Context(text, (text, "b"), (0.0, 3.0), 1)
    use = LatentUse(0, 2, {text: 0.25}, 3.0, (context,), None)
    shares = {1: torch.tensor([[[0.25], [0.75]]], dtype=torch.float64)}
    numbers = np.array([0.5, 0.25])
    matrix = torch.tensor([[0.5, 0.25], [0.125, 1.0]], dtype=torch.float64)
    sizes = {"parts": {"a": NEAR, "b": NEAR}, "n_prompts": 3, "undefined": 0.25, "provenance": MADE}
    return [
        collapse_report(),
        DOMAINS,
        FiringRates((text, "b"), (torch.tensor([0.5, 0.0]), torch.tensor([0.25])), 8, MADE),
        OriginAgreement((0, 1), torch.ones(2, 4, 4), *[matrix] * 7, 0.95, 12, MADE),
        PredecessorActivity(
            Occurrences(
                *[torch.tensor([0, 0], dtype=torch.int32)] * 4, torch.tensor([0, 1], dtype=torch.int8)
            ),
            ("blocks.1.hook_resid_post",),
            (1,),
            {"blocks.1.hook_resid_post": origins},
            {text: 2},
            24,
            (),
            MADE,
        ),
        DEACTIVATION,
        graph_of([((hook(0), 1), (hook(1), 2), 0.5, 0.75)], starts=[(hook(1), 2)], provenance=MADE),
        FeatureMatch(torch.tensor([[1], [0]]), torch.tensor([[0.5], [0.25]]), 2, False, MADE),
        origins,
        TopActivations(
            {"blocks.0.hook_resid_post": SiteTops(*_site_tops())},
            torch.arange(8).view(2, 4),
            {text: 2},
            dict.fromkeys(range(8), text),
            8,
            MADE,
        ),
        TRANSITION,
        NewLatents((LatentPair(use, use, 0.5),), text, {**MADE, "n_tokens": {text: 7}}),
        StabilityProbe(
            ("a", "b"),
            tuple(ProbeScore(i, 1 - i, None, h, 1, 2, 3, 4, 0.5) for i in range(2) for h in (True, False)),
            torch.ones(2, 3),
            torch.ones(2),
            (),
            MADE,
        ),
        subspace_report(),
        CURVE,
        STABILITY,
        RECOVERY,
        ArithmeticAccuracy(
            torch.tensor([True, False]), torch.tensor([True, False]), torch.tensor([2, 3]), (text, "b"), MADE
        ),
        DepthwiseCircuits(
            {1: shares[1].float()},
            shares,
            shares,
            {(1, 0, 0, 0): Served((ServedToken(text, 7, -0.5, 3),), (context,))},
            "share",
            100,
            MADE,
        ),
        RouterMap({0: torch.ones(1, 1, 1), 1: torch.ones(1, 2, 1)}, False, MADE),
        LanguageModelLoss(numbers, np.array([3, 4]), MADE),
        LanguageModelTraining(
            *[numbers] * 3, np.array([3, 6]), numbers, np.array([2]), np.array([0.5]), provenance=MADE
        ),
        response(),
        Persistence((0,), *_persistence(), 12, 3, MADE),
        PropagatedEffect((text,), (0,), *_effect(), 12, MADE),
        PairGains((PairGainRow(0, 1, 0.5, 0.25, 0.75, *[0.5] * 3, 0.0, None),), (0, 1), 0.75, 3, MADE),
        PairGain(0.5, 0.25, 0.75, **sizes),
        Transfer(0.5, 0.25, 0.75, **sizes),
        LogitLensResult(
            (text,),
            (0,),
            (1.0,),
            *(torch.tensor([[1, 2]]), torch.tensor([[0.5, 0.25]])) * 2,
            {1: text, 2: "b"},
            "cosine",
            "RMSNorm",
            "as trained",
            False,
            10,
            0.5,
            MADE,
        ),
        PathPatching((PathRow("full", *[NEAR] * 7),), 0, "full", 12, 3, {"a": 0.5}, MADE),
        TokenShift(
            Shifts(*_shifts()),
            Sequences((torch.tensor([1, 2, 3]),), (1,)),
            dict.fromkeys(range(10), text),
            10,
            0,
            MADE,
        ),
        RewardMeasurement(
            (text,),
            numbers[None],
            ((text, "b"),),
            (((1, 2), (3,)),),
            ((4, 5),),
            np.array([[True, False]]),
            -numbers[None],
            MADE,
        ),
    ]


def _site_tops() -> list[torch.Tensor]:
    one = torch.tensor([[0, 1]])
    return [
        torch.tensor([3]),
        torch.tensor([2]),
        one,
        one,
        torch.tensor([[2.0, 1.0]]),
        torch.tensor([[[0.0, 2.0], [0.0, 1.0]]]),
        one,
        torch.tensor([[2.0, 1.0]]),
    ]


def _persistence() -> list[torch.Tensor]:
    one, interval = torch.full((1, 2), 0.5).double(), torch.full((1, 2, 2), 0.5).double()
    return [one, interval] * 3 + [one] * 4


def _effect() -> list[torch.Tensor]:
    assert [f.name for f in fields(PropagatedEffect)][2:6] == ["mean", "mean_norm", "share", "null_share"]
    return [torch.full((1, 2, 4), 0.5), *[torch.full((1, 2), 0.5).double()] * 3]


def _shifts() -> list[torch.Tensor]:
    n, k = torch.tensor([0, 0]), torch.tensor([[1, 2], [3, 4]])
    return [
        n, torch.tensor([0, 1]), torch.tensor([2, 3]), *[torch.tensor([0.5, 0.25])] * 2,
        k, k.float(), k.float(), n, *[torch.tensor([0.5, 0.25])] * 2,
    ]  # fmt: skip

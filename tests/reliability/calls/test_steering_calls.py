"""Calls of steering and LIMe with anything in the place of any argument: a result or a refusal worth the name, and nothing left changed."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import sae_lens_ext
from tests.reliability.calls import lime_calls, steering_calls

CALLS = [*steering_calls.calls(), *lime_calls.calls()]
CASES = [(call, argument, value) for call in CALLS for argument, value in call.cases()]
ROOMS = ("sae_lens_ext.steering", "sae_lens_ext.lime", "sae_lens_ext.embedded")
NOT_CALLED = {
    "RewardError": "raised by the package",
    "arithmetic_accuracy": "takes what arithmetic_examples gives; tests/lime/arithmetic/test_accuracy.py",
    "list_embedded_texts": "takes nothing",
    **dict.fromkeys(
        [
            "ArithmeticAccuracy",
            "ArithmeticExamples",
            "DepthwiseCircuits",
            "DoseResponse",
            "LanguageModelLoss",
            "LanguageModelTraining",
            "LogitLensResult",
            "PairGain",
            "PairGains",
            "PathPatching",
            "Persistence",
            "PropagatedEffect",
            "RewardMeasurement",
            "RouterMap",
            "TokenShift",
            "TrainingLog",
            "Transfer",
        ],
        "a result, made by the package; its files are fuzzed in tests/reliability/files",
    ),
    "flow_steering": "takes what trace_feature gives; tests/steering/test_flow_steering.py",
}


def test_every_public_function_of_these_rooms_is_called() -> None:
    public = {n for n in sae_lens_ext.__all__ if getattr(sae_lens_ext, n).__module__.startswith(ROOMS)}
    called = {call.name.split(".")[0].split(" ")[0] for call in CALLS}
    assert public - called == set(NOT_CALLED) & public
    assert not called & set(NOT_CALLED)


@settings(max_examples=300, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=st.sampled_from(CASES))
def test_a_wrong_argument_is_refused_in_a_sentence(
    case: tuple, tmp_path_factory: pytest.TempPathFactory
) -> None:
    call, argument, value = case
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(_folder(tmp_path_factory))  # "folder" may be a name
        assert call.judge(argument, value) is None


def _folder(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("calls")

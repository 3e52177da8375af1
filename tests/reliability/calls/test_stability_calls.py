"""Calls of `stability` with one argument spoiled: the right result or a sentence of refusal, and nothing else changed."""

import pytest
from hypothesis import given, settings

from .harness import Call, cases_of, judge
from .stability_calls import STABILITY


@pytest.mark.parametrize("call", STABILITY, ids=lambda call: call.name)
def test_stability_valid_arguments_are_taken(call: Call):
    call.function(**call.valid())


@settings(max_examples=60, derandomize=True)
@given(case=cases_of(STABILITY))
def test_stability_call_with_a_spoiled_argument_is_right_or_refused(case):
    call, argument, variant = case
    verdict = judge(call, argument, variant)
    assert verdict.ending != "wrong", f"{call.name}, {argument} {variant}: {verdict.note}"

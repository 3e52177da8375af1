"""Calls of `flow` with one argument spoiled: the right result or a sentence of refusal, and nothing else changed."""

import pytest
from hypothesis import given, settings

from .flow_calls import FLOW
from .harness import Call, cases_of, judge


@pytest.mark.parametrize("call", FLOW, ids=lambda call: call.name)
def test_flow_valid_arguments_are_taken(call: Call):
    call.function(**call.valid())


@settings(max_examples=120, derandomize=True)
@given(case=cases_of(FLOW))
def test_flow_call_with_a_spoiled_argument_is_right_or_refused(case):
    call, argument, variant = case
    verdict = judge(call, argument, variant)
    assert verdict.ending != "wrong", f"{call.name}, {argument} {variant}: {verdict.note}"

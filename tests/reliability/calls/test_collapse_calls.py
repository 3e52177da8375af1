"""Calls of `collapse` with one argument spoiled: the right result or a sentence of refusal, and nothing else changed."""

import pytest
from hypothesis import given, settings

from .collapse_calls import COLLAPSE
from .harness import Call, cases_of, judge


@pytest.mark.parametrize("call", COLLAPSE, ids=lambda call: call.name)
def test_collapse_valid_arguments_are_taken(call: Call):
    if call.name != "plot_collapse":  # its reports are refused where there are none
        call.function(**call.valid())


@settings(max_examples=120, derandomize=True)
@given(case=cases_of(COLLAPSE))
def test_collapse_call_with_a_spoiled_argument_is_right_or_refused(case):
    call, argument, variant = case
    verdict = judge(call, argument, variant)
    assert verdict.ending != "wrong", f"{call.name}, {argument} {variant}: {verdict.note}"

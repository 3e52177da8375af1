"""The registry of calls knows every public function of its rooms."""

import inspect

import sae_lens_ext
from sae_lens_ext import ops

from .rooms import CALLS, LEFT_OUT

ROOMS = ("sae_lens_ext.architectures", "sae_lens_ext.analysis", "sae_lens_ext.ops")


def test_registry_has_every_public_function():
    public = {
        name
        for module in (sae_lens_ext, ops)
        for name in module.__all__
        if inspect.isfunction(found := getattr(module, name)) and found.__module__.startswith(ROOMS)
    }
    assert public == (public & {call.name for call in CALLS}) | LEFT_OUT.keys()


def test_registry_names_only_arguments_that_the_functions_have():
    for call in CALLS:
        parameters = inspect.signature(call.function).parameters
        assert {argument for argument, _ in call.cases()} <= parameters.keys(), call.name

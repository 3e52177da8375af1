"""Dropout off for a while, and on again where it was."""

from typing import Any

from sae_lens_ext.language_model.evaluating import evaluating, modules_of


def test_every_module_rests_in_the_block_and_is_as_before_after_it(any_model: Any):
    any_model.train()
    modules = modules_of(any_model)
    modules[-1].training = False
    before = [module.training for module in modules]
    with evaluating(any_model):
        assert not any(module.training for module in modules)

    assert [module.training for module in modules] == before

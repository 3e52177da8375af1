"""Many edits in one pass, against one full forward pass for each."""

from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.flow.deactivation.interventions import Interventions
from sae_lens_ext.language_model import Site, find_hook_point
from tests.analysis.domains import CONTEXT
from tests.analysis.flow.deactivation.cases import HOOKS, tokens_of
from tests.language_model.test_hook_points import hooks_left, own_name

WIDTH = 16


def by_hand(model: Any, tokens: torch.Tensor, source: str, target: str, position: int, edit: torch.Tensor):
    """One full pass over the whole context with the edit at the position."""
    found: list[torch.Tensor] = []

    def add(h: torch.Tensor, hook: Any) -> torch.Tensor:
        h = h.clone()
        h[0, position] += edit.reshape(h.shape[2:])
        return h

    points = find_hook_point(model, source), find_hook_point(model, target)
    points[0].add_hook(add)
    points[1].add_hook(lambda h, hook: found.append(h[0, position].clone()))
    try:
        model(tokens[None])
    finally:
        for point in points:
            point.remove_hooks()
    return found[0]


def interventions_of(model: Any, source: str, batch_size: int = 64) -> Interventions:
    names = [own_name(model, *HOOKS[site]) for site in (source, "late")]
    return Interventions(model, Site(names[0]), Site(names[1]), batch_size, False)


@torch.no_grad()
@pytest.mark.parametrize("source", ["early", "mlp", "attention", "heads"])
def test_Interventions_run_is_a_full_pass_for_each_edit(any_model: Any, source: str) -> None:
    tokens, edits = tokens_of(any_model)[0], torch.randn(5, WIDTH)
    interventions = interventions_of(any_model, source)
    for position in (1, 9, CONTEXT - 1):
        rows = interventions.run(tokens[: position + 1], edits)
        hooks = interventions.source.hook_name, interventions.target.hook_name
        for row, edit in zip(rows, [torch.zeros(WIDTH), *edits], strict=True):
            torch.testing.assert_close(
                row, by_hand(any_model, tokens, *hooks, position, edit), atol=1e-5, rtol=1e-4
            )
    assert hooks_left(any_model) == []


@torch.no_grad()
@pytest.mark.parametrize("source", ["early", "mlp", "attention", "heads"])
def test_Interventions_expand_the_batch_on_every_model(any_model: Any, source: str) -> None:
    tokens, edits = tokens_of(any_model)[1], torch.randn(3, WIDTH)
    interventions = interventions_of(any_model, source)
    assert interventions.expandable(tokens, edits)
    repeated = interventions.with_repeated_tokens()
    torch.testing.assert_close(interventions.run(tokens, edits), repeated.run(tokens, edits))


@torch.no_grad()
def test_Interventions_in_small_batches_are_the_same(hooked_model) -> None:
    tokens, edits = tokens_of(hooked_model)[2], torch.randn(7, WIDTH)
    expected = interventions_of(hooked_model, "early").run(tokens, edits)
    for batch_size in (1, 3, 7):
        rows = interventions_of(hooked_model, "early", batch_size).run(tokens, edits)
        assert rows.shape == (8, WIDTH)
        torch.testing.assert_close(rows, expected)


@torch.no_grad()
def test_Interventions_stop_at_the_target_and_run_one_row_up_to_the_source(hooked_model) -> None:
    rows: dict[str, list[int]] = {}
    for name in ("hook_embed", "blocks.1.hook_resid_pre", "ln_final.hook_scale"):
        point = hooked_model.hook_dict[name]
        point.add_perma_hook(lambda x, hook: rows.setdefault(hook.name, []).append(len(x)))
    interventions_of(hooked_model, "early").run(tokens_of(hooked_model)[0], torch.randn(4, WIDTH))
    assert rows == {"hook_embed": [1], "blocks.1.hook_resid_pre": [5]}


@torch.no_grad()
def test_Interventions_know_a_model_that_does_not_go_on_with_more_rows(hooked_model, monkeypatch) -> None:
    tokens, edits = tokens_of(hooked_model)[0], torch.randn(4, WIDTH)
    interventions = interventions_of(hooked_model, "early")
    expected = interventions.run(tokens, edits)
    block = hooked_model.blocks[1]
    own = block.forward
    n_tokens: list[int] = []
    hooked_model.hook_dict["hook_embed"].add_perma_hook(lambda x, hook: n_tokens.append(len(x)))
    monkeypatch.setattr(
        block, "forward", lambda h, *args, **kw: own(h.reshape(n_tokens[-1], 16, 16), *args, **kw)
    )
    assert not interventions.expandable(tokens, edits)
    torch.testing.assert_close(interventions.with_repeated_tokens().run(tokens, edits), expected)
    assert hooks_left(hooked_model) == ["hook_embed"]  # the test's own


def test_Interventions_before_whose_target_comes_first_say_so(hooked_model) -> None:
    backwards = Interventions(hooked_model, Site(HOOKS["late"][0]), Site(HOOKS["early"][0]), 8, False)
    with pytest.raises(RuntimeError, match=r"The hooks 'blocks.1.hook_resid_post' never fired"):
        backwards.run(tokens_of(hooked_model)[0], torch.randn(2, WIDTH))

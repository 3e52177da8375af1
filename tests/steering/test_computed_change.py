"""Interventions that compute their change: token by token, where they are asked to, together with others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from sae_lens_ext.extending import (
    PHASES,
    ComputedChange,
    Positions,
    SingleIntervention,
    Site,
    TokenSelection,
    read_activations,
)
from sae_lens_ext.steering import AddVector, steer
from tests.steering.by_hand import after
from tests.steering.naive import EARLY


@dataclass(frozen=True, eq=False)
class Doubled(SingleIntervention):
    """h += strength · f(h)."""

    change: Callable[[torch.Tensor], Any] = lambda h: h
    strength: float = 1.0
    positions: Positions = None
    phases: Sequence[str] = PHASES
    hook_name: str = EARLY

    def __mul__(self, factor: float) -> "Doubled":
        return replace(self, strength=self.strength * factor)

    @property
    def site(self) -> Site:
        return Site(self.hook_name)

    @property
    def tokens(self) -> TokenSelection:
        return TokenSelection("Doubled", self.positions, self.phases)

    def effect(self) -> ComputedChange:
        return ComputedChange(lambda h: self.strength * self.change(h))


def test_what_is_computed_of_each_token_is_added() -> None:
    assert after(Doubled(), [1.0, 2.0], [0.0, -3.0]) == [[2.0, 4.0], [0.0, -6.0]]
    assert after(-1 * Doubled(), [1.0, 2.0]) == [[0.0, 0.0]]


def test_it_is_computed_of_the_activations_as_they_are_without_the_others() -> None:
    added = AddVector(EARLY, torch.tensor([10.0, 0.0]))
    expected = [[12.0, 4.0]]
    assert after(Doubled() + added, [1.0, 2.0]) == after(added + Doubled(), [1.0, 2.0]) == expected


def test_tokens_that_are_not_selected_are_not_even_shown_to_it(any_model: Any, tokens: torch.Tensor) -> None:
    seen: list[torch.Size] = []

    def change(h: torch.Tensor) -> torch.Tensor:
        seen.append(h.shape)
        return h

    hook = "blocks.0.hook_resid_post"
    plain = read_activations(any_model, tokens, Site(hook))
    with steer(any_model, Doubled(change, positions=[1, 3], hook_name=hook)):
        found = read_activations(any_model, tokens, Site(hook))
    expected = plain.clone()
    expected[:, [1, 3]] *= 2
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[:, 2], plain[:, 2])
    assert seen == [(2 * len(tokens), plain.shape[-1])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda h: h[:, 0],
            r"computed a tensor \[2\] of activations \[2, 2\]. Give a change of the same shape",
        ),
        (lambda h: _Nothing(), "computed _Nothing of activations"),
    ],
)
def test_a_change_of_another_shape_is_refused(change: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        after(Doubled(change), [1.0, 2.0], [3.0, 4.0])


class _Nothing:
    """What is no tensor, times anything."""

    def __rmul__(self, other: float) -> "_Nothing":
        return self

"""Interventions as hook functions for `model.run_with_hooks`."""

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_ext.steering.hook_changes import HookChanges, token_shape
from sae_lens_ext.steering.hook_points import steered_point
from sae_lens_ext.steering.intervention import Hook, SingleIntervention
from sae_lens_ext.steering.token_pass import TokenPass


def hook_list(parts: Sequence[SingleIntervention], model: Any) -> list[tuple[str, Hook]]:
    """Give hook functions for one forward pass; see `Intervention.hooks`."""
    by_name: dict[str, list[SingleIntervention]] = {}
    for part in parts:
        given = part.site.hook_name
        name = given if model is None else steered_point(model, given).honoured_name(model, given)
        by_name.setdefault(name, []).append(part)
    return [(name, _hook(HookChanges(name, of_hook))) for name, of_hook in by_name.items()]


def _hook(changes: HookChanges) -> Hook:
    def act(activations: torch.Tensor, hook: Any = None) -> torch.Tensor | None:  # noqa: ARG001
        _, n_tokens = token_shape(changes.hook_name, activations)
        return changes(activations, TokenPass(first=0, n_tokens=n_tokens, prompt=n_tokens))

    return act

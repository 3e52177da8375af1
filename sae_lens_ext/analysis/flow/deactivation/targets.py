"""The targets of a deactivation test: features that are active at sampled tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sae_lens_ext.analysis.flow.deactivation.plan import Plan
from sae_lens_ext.analysis.flow.deactivation.result import TestedSite
from sae_lens_ext.analysis.flow.deactivation.sampling import Choice, active_latents, choose_features
from sae_lens_ext.analysis.flow.sites import FlowSites
from sae_lens_ext.analysis.site_reading import read_sites
from sae_lens_ext.analysis.splicing import require_width


@dataclass(frozen=True, eq=False)
class Targets:
    """The features tested at one site."""

    token: torch.Tensor
    """Which sampled token each is at, [n], ascending."""
    feature: torch.Tensor
    """Its index, [n]."""
    activation: torch.Tensor
    """Its activation there, [n]."""

    def at(self, token: int) -> slice:
        """Give where the targets of a token are."""
        first, last = torch.searchsorted(self.token, torch.tensor([token, token + 1])).tolist()
        return slice(first, last)


def read_tokens(
    model: Any,
    plan: Plan,
    text: torch.Tensor,
    position: torch.Tensor,
    batch_size: int,
    autocast: bool,
    show_progress: bool,
) -> dict[str, torch.Tensor]:
    """Give the activations at the sampled tokens, [t, d_in], by hook.

    Args:
        model: The language model.
        plan: What is tested.
        text: Text of each token, [t], ascending.
        position: Its position there, [t].
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16.
        show_progress: Show a progress bar.
    """
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in plan.places}
    for batch in read_sites(
        model,
        list(plan.places.values()),
        plan.contexts,
        batch_size=batch_size,
        autocast=autocast,
        show_progress=show_progress,
        description="Reading tokens",
    ):
        inside = (text >= batch.first) & (text < batch.first + len(batch.tokens))
        for name, x in batch.activations.items():
            require_width(name, plan.sites[name], plan.places[name], x)
            parts[name].append(x[(text[inside] - batch.first).to(x.device), position[inside].to(x.device)])
    return {name: torch.cat(part) for name, part in parts.items()}


def choose_targets(
    sites: FlowSites,
    site: TestedSite,
    x: torch.Tensor,
    max_features: int,
    choice: Choice,
    seed: Sequence[int],
) -> Targets:
    """Choose targets among the features that are active at sampled tokens.

    Args:
        sites: The SAEs.
        site: The targets' site.
        x: Activations there, [t, d_in].
        max_features: Targets of each token, at most.
        choice: Which of more.
        seed: What they are drawn with.

    Raises:
        ValueError: Nothing is active at any token.
    """
    rng = np.random.default_rng(seed)
    chosen: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    for active in active_latents(sites[site.hook_name], x):
        features = choose_features(active, max_features, choice, rng)
        chosen.append(features)
        values.append(active.value[torch.searchsorted(active.latent, features)])
    if not any(len(features) for features in chosen):
        raise ValueError(
            f"deactivation_test found no active feature of {site.hook_name!r} at any of the {len(x)} sampled tokens, so that there is nothing to "
            "deactivate. See that the model is the one the SAE was trained on, or give more texts."
        )
    token = torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor([len(f) for f in chosen]))
    return Targets(token, torch.cat(chosen), torch.cat(values))

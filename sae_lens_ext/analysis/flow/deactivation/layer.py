"""The deactivation test of one residual site: its active features, and each predecessor taken away from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from tqdm.auto import tqdm

from sae_lens_ext.analysis.dictionaries import decoder_rows_used
from sae_lens_ext.analysis.flow.deactivation.interventions import Interventions
from sae_lens_ext.analysis.flow.deactivation.naming import AT_THE_TOKEN, CONTROL, Naming
from sae_lens_ext.analysis.flow.deactivation.sampling import ActiveLatents, active_latents
from sae_lens_ext.analysis.flow.deactivation.targets import Targets
from sae_lens_ext.analysis.splicing import reconstruct


@dataclass(frozen=True, eq=False)
class Outcome:
    """What taking predecessors away did to n targets, by m methods; fields as in DeactivationResult."""

    predecessor: torch.Tensor
    predecessor_activation: torch.Tensor
    new_activation: torch.Tensor
    activation_change: torch.Tensor

    @classmethod
    def empty(cls, n: int, m: int) -> "Outcome":
        """Give one in which nothing was tested."""
        nothing = torch.full((n, m), float("nan"))
        return cls(torch.full((n, m), -1), torch.zeros(n, m), nothing, nothing.clone())


@dataclass(frozen=True, eq=False)
class PredecessorSite:
    """A site at which predecessors are taken away."""

    hook_name: str
    """Its hook."""
    sae: SAE[Any]
    """Its SAE."""
    rows: torch.Tensor
    """What each of its latents adds at an activation of 1, [d_sae, d_in]."""
    active: Sequence[ActiveLatents]
    """What is active there at each sampled token."""

    @classmethod
    def at(cls, hook_name: str, sae: SAE[Any], x: torch.Tensor) -> "PredecessorSite":
        """Encode the activations [t, d_in] at the sampled tokens."""
        return cls(hook_name, sae, decoder_rows_used(hook_name, sae), active_latents(sae, x))

    def edits(self, token: int, latents: torch.Tensor, factor: float) -> torch.Tensor:
        """Give (r − 1) a v for each of some latents active at a token, [n, d_in]."""
        active = self.active[token]
        value = active.value[torch.searchsorted(active.latent, latents)] * active.scale
        where = self.rows.device
        return (factor - 1) * value.to(where)[:, None] * self.rows[latents.to(where)]


def take_away(
    targets: Targets,
    target_sae: SAE[Any],
    source: PredecessorSite,
    tokens: Mapping[int, torch.Tensor],
    interventions: Interventions,
    naming: Naming,
    methods: Sequence[str],
    *,
    factor: float,
    max_exhaustive: int,
    seed: Sequence[int],
    show_progress: bool,
) -> Outcome:
    """Take away, at each token, every predecessor that a method names for a target there and that is active; each one once.

    Args:
        targets: The targets.
        target_sae: Their SAE.
        source: Where the predecessors are.
        tokens: Token ids up to each sampled token and with it, [pos], of those that have targets.
        interventions: What runs the model.
        naming: What names predecessors.
        methods: Methods, [m].
        factor: r: 0 removes, below 0 over-subtracts.
        max_exhaustive: Active predecessors at one token, at most, for the method "exhaustive".
        seed: What random predecessors are drawn with.
        show_progress: Show a progress bar.

    Raises:
        ValueError: "exhaustive" is asked for and more are active; an activation is NaN or infinite.
    """
    outcome = Outcome.empty(len(targets.feature), len(methods))
    rngs = {
        method: np.random.default_rng([*seed, i]) for i, method in enumerate(("random_of_top_5", CONTROL))
    }
    for m, method in enumerate(methods):
        if method not in AT_THE_TOKEN:
            named = naming.name(method, targets.feature, rngs["random_of_top_5"])
            outcome.predecessor[:, m] = named
    description = f"Deactivating {source.hook_name}"
    for token, context in tqdm(tokens.items(), desc=description, disable=not show_progress):
        here, active = targets.at(token), source.active[token]
        named, n_active = outcome.predecessor[here], len(active.latent)
        if n_active == 0:
            continue
        if CONTROL in methods:
            drawn = rngs[CONTROL].integers(n_active, size=len(named))
            named[:, methods.index(CONTROL)] = active.latent[torch.from_numpy(drawn)]
        tried = active.latent
        if "exhaustive" not in methods:
            tried = tried[torch.isin(tried, named)]
        elif n_active > max_exhaustive:
            raise ValueError(
                f"deactivation_test was asked for the method 'exhaustive', but {n_active} features of {source.hook_name!r} are active at a token, more "
                f"than max_exhaustive = {max_exhaustive}, and each is taken away by itself. Raise max_exhaustive, or leave 'exhaustive' out "
                "of the methods."
            )
        if len(tried) == 0:
            continue
        x = interventions.run(context, source.edits(token, tried, factor))
        if not torch.isfinite(x).all():
            raise ValueError(
                f"There is NaN or infinity at {interventions.target.hook_name!r} after a predecessor at {source.hook_name!r} was taken away. Look at the "
                "precision: float16 overflows where bfloat16 does not."
            )
        z = reconstruct(target_sae, x[None]).acts[0].float().cpu()[:, targets.feature[here]]
        _fill(outcome, here, methods, active, tried, z)
    return outcome


def _fill(
    outcome: Outcome,
    here: slice,
    methods: Sequence[str],
    active: ActiveLatents,
    tried: torch.Tensor,
    z: torch.Tensor,
) -> None:
    """Write down what each predecessor tried, [n_tried], made of the targets of a token, z [1 + n_tried, n], the first untouched."""
    # A target that is active in the reading and not here is at its threshold but for rounding: NaN, as if not tested.
    change = 1 - z[1:] / torch.where(z[0] != 0, z[0], float("nan"))
    named = outcome.predecessor[here]
    if "exhaustive" in methods:
        named[:, methods.index("exhaustive")] = tried[change.nan_to_num(nan=0.0).argmax(dim=0)]
    place = torch.searchsorted(tried, named).clamp(max=len(tried) - 1)  # [n, m]
    found = tried[place] == named
    column = torch.arange(z.shape[1])[:, None].expand_as(place)
    value = active.value[torch.searchsorted(active.latent, tried)]
    nan = torch.tensor(float("nan"))
    tested = found & ~change[place, column].isnan()
    outcome.predecessor_activation[here] = torch.where(found, value[place], 0.0)
    outcome.new_activation[here] = torch.where(tested, z[1:][place, column], nan)
    outcome.activation_change[here] = torch.where(tested, change[place, column], nan)

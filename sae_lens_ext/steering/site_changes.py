"""The changes at one head of a hook, or at all of it."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch

from sae_lens_ext.analysis.splicing import require_width
from sae_lens_ext.language_model import Site
from sae_lens_ext.steering.effects import AddedVector, ComputedChange, LatentChange
from sae_lens_ext.steering.feature_checks import sae_name
from sae_lens_ext.steering.intervention import SingleIntervention
from sae_lens_ext.steering.live_feature import LiveFeature
from sae_lens_ext.steering.live_latents import LiveLatents

Masks = Mapping[Hashable, torch.Tensor]
"""Which of n tokens are selected, [n], bool, on the CPU, by the selection's key."""


class SiteChanges:
    """The interventions at one site.

    Args:
        site: The hook and head.
        parts: The interventions, and the key of the tokens of each.

    Raises:
        ValueError: One of them cannot be computed, or two set one feature to a value at the same tokens.
    """

    def __init__(self, site: Site, parts: Sequence[tuple[SingleIntervention, Hashable]]) -> None:
        self._set_values = _SetValues(parts)
        self.site = site
        self._keys = tuple(dict.fromkeys(key for _, key in parts))
        self._trained: list[tuple[SingleIntervention, Hashable, AddedVector]] = []
        self._computed: list[tuple[SingleIntervention, Hashable, ComputedChange]] = []
        by_sae: dict[int, list[tuple[Hashable, LatentChange]]] = {}
        fixed: dict[tuple[Hashable, bool], tuple[SingleIntervention, torch.Tensor]] = {}
        for part, key in parts:
            effect = part.effect()
            if isinstance(effect, LatentChange):
                by_sae.setdefault(id(effect.sae), []).append((key, effect))
            elif isinstance(effect, ComputedChange):
                self._computed.append((part, key, effect))
            elif effect.fixed:
                _, summed = fixed.get((key, effect.relative), (part, None))
                fixed[key, effect.relative] = part, _plus(part, summed, effect)
            else:
                self._trained.append((part, key, effect))
        self._fixed = [(part, key, relative, v) for (key, relative), (part, v) in fixed.items()]
        """What is added whatever is active: strengths times directions, summed once."""
        self._latents = [
            (tuple(key for key, _ in changes), LiveLatents([change for _, change in changes]))
            for changes in by_sae.values()
        ]

    def change(self, original: torch.Tensor, changed: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Add to activations what is computed from others.

        Args:
            original: The activations as they arrived at the hook, [batch, pos, ...].
            changed: The activations that are added to, of the same shape; they are left as they are.
            masks: Which of the batch · pos tokens are selected.

        Returns:
            [batch, pos, ...]; tokens that no mask of this site has are the same bits.

        Raises:
            ValueError: Two interventions set one feature at one token; or the activations have another width than a vector or SAE.
        """
        self._set_values.require_apart(masks)
        anywhere = torch.stack([masks[key] for key in self._keys]).any(dim=0)
        if not anywhere.any():
            return changed
        x = self.site.read(original).flatten(0, 1)
        old = self.site.read(changed)
        if anywhere.all():
            new = old.flatten(0, 1) + self._delta(x, masks).to(original.dtype)
        else:
            at = anywhere.nonzero()[:, 0].to(x.device)
            delta = self._delta(x[at], {key: masks[key][anywhere] for key in self._keys})
            new = old.flatten(0, 1).clone()
            new[at] = new[at] + delta.to(original.dtype)
        return self.site.write(changed, new.view(old.shape))

    def _delta(self, x: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Give what is added to activations [n, d_in]."""
        with torch.autocast(x.device.type, enabled=False):
            delta = torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
            for key in self._keys:
                added = self._added(x, key)
                if added is not None:
                    delta = delta + (added if masks[key].all() else added * masks[key][:, None].to(delta))
            for keys, latents in self._latents:
                require_width(sae_name(latents.sae), latents.sae, self.site, x)
                wanted = torch.stack([masks[key] for key in keys], dim=1)
                somewhere = wanted.any(dim=1)
                if somewhere.any():
                    at = somewhere.nonzero()[:, 0].to(x.device)
                    found = latents.delta(x[at], None if wanted.all() else wanted[somewhere])
                    delta = delta.index_add(0, at, found.to(delta.dtype))
            for part, key, effect in self._computed:
                at = masks[key].nonzero()[:, 0].to(x.device)
                if len(at):
                    delta = delta.index_add(0, at, _computed(part, effect, x[at].to(delta.dtype)))
        return delta

    def _added(self, x: torch.Tensor, key: Hashable) -> torch.Tensor | None:
        """Give the sum of the vectors that are added at the same tokens, [d_in] or [n, d_in]; None if there is none."""
        terms = [(part, relative, v.to(x.device)) for part, of, relative, v in self._fixed if of == key]
        for part, of, effect in self._trained:
            if of == key:
                terms.append((part, effect.relative, effect.strength * effect.direction(x)))
        total: torch.Tensor | None = None
        for part, relative, vector in terms:
            if vector.shape != x.shape[-1:]:
                raise ValueError(
                    f"{part} adds a vector of {len(vector)} numbers, but the activations at {self.site.hook_name!r} have width "
                    f"{x.shape[-1]}. Give a vector of this model and hook."
                )
            term = vector * x.to(vector.dtype).norm(dim=-1, keepdim=True) if relative else vector
            total = term if total is None else total + term
        return total


def _computed(part: SingleIntervention, effect: ComputedChange, x: torch.Tensor) -> torch.Tensor:
    """Give what a part computes of activations [n, d_in]."""
    found: Any = effect.change(x)
    if not isinstance(found, torch.Tensor) or found.shape != x.shape:
        what = f"a tensor {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise ValueError(
            f"{part} computed {what} of activations {list(x.shape)}. Give a change of the same shape, a row for each token."
        )
    return found.to(x)


@torch.inference_mode(False)
@torch.no_grad()
def _plus(part: SingleIntervention, total: torch.Tensor | None, effect: AddedVector) -> torch.Tensor:
    if abs(effect.strength) > torch.finfo(torch.float32).max:
        raise ValueError(
            f"{part} has a strength that float32 cannot hold, so that the activations would be infinite. Give a smaller one."
        )
    vector = effect.strength * effect.direction(effect.vector if total is None else total)
    if total is not None and vector.shape != total.shape:
        raise ValueError(
            f"{part} adds a vector of {len(vector)} numbers at a hook where another adds {len(total)}. Give vectors of the hook's width, and features of "
            "SAEs of this hook."
        )
    return vector if total is None else total + vector


class _SetValues:
    """Which interventions set one feature to an activation: two of them at one token would give it a third.

    Args:
        parts: The interventions at a site, and the key of the tokens of each.

    Raises:
        ValueError: Two of them have the same tokens.
    """

    def __init__(self, parts: Sequence[tuple[SingleIntervention, Hashable]]) -> None:
        features: dict[tuple[int, int], list[tuple[LiveFeature, Hashable]]] = {}
        for part, key in parts:
            if isinstance(part, LiveFeature) and part.sets_a_value:
                features.setdefault((id(part.sae), part.index), []).append((part, key))
        self._pairs = [pair for setters in features.values() for pair in combinations(setters, 2)]
        for (first, key), (second, other) in self._pairs:
            if key == other:
                raise _two_values(first, second)

    def require_apart(self, masks: Masks) -> None:
        """Raise ValueError if two of them select one token of a pass."""
        for (first, key), (second, other) in self._pairs:
            if (masks[key] & masks[other]).any():
                raise _two_values(first, second)


def _two_values(first: SingleIntervention, second: SingleIntervention) -> ValueError:
    return ValueError(
        f"{first} and {second} set one feature at the same token, and the two changes would add up to a third value. Leave one out, or give them "
        "positions or phases that do not overlap."
    )

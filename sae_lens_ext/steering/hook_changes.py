"""Everything that is done at one hook: computed from the same activations, and added."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sae_lens_ext.steering.intervention import SingleIntervention
from sae_lens_ext.steering.site_changes import SiteChanges
from sae_lens_ext.steering.token_pass import TokenPass
from sae_lens_ext.steering.token_selection import TokenSelection


class HookChanges:
    """The interventions at one hook.

    Args:
        hook_name: The hook, for messages.
        parts: The interventions; at least one.

    Raises:
        ValueError: One of them cannot be computed, or two set one feature to a value at the same tokens.
    """

    def __init__(self, hook_name: str, parts: Sequence[SingleIntervention]) -> None:
        self.hook_name = hook_name
        self.parts = tuple(parts)
        self.n_tokens = [0] * len(parts)
        """On how many tokens each intervention has acted."""
        selections = [part.tokens for part in parts]
        self._keys = [selection.key for selection in selections]
        self._selections: Mapping[Any, TokenSelection] = dict(zip(self._keys, selections, strict=True))
        sites = {part.site.head: part.site for part in parts}
        keyed = list(zip(parts, self._keys, strict=True))
        self._sites = [
            SiteChanges(site, [(part, key) for part, key in keyed if part.site.head == head])
            for head, site in sites.items()
        ]

    def __call__(self, activations: torch.Tensor, tokens: TokenPass) -> torch.Tensor | None:
        """Change the activations of a pass.

        Args:
            activations: [batch, pos, ...] as at the hook.
            tokens: Which tokens they are of.

        Returns:
            New activations; those of tokens that nothing acts on are the same bits. None if there are only such.

        Raises:
            ValueError: The activations have another width than a vector or SAE, or two interventions set one feature at one token.
        """
        masks = {
            key: selection.mask(tokens, len(activations)).flatten()
            for key, selection in self._selections.items()
        }
        counts = {key: int(mask.sum()) for key, mask in masks.items()}
        if not any(counts.values()):
            return None
        changed = activations
        for site in self._sites:
            changed = site.change(activations, changed, masks)
        self.n_tokens = [n + counts[key] for n, key in zip(self.n_tokens, self._keys, strict=True)]
        return changed


def token_shape(hook_name: str, activations: Any, of_pass: tuple[int, int] | None = None) -> tuple[int, int]:
    """Give the rows and tokens of activations.

    Args:
        hook_name: The hook, for messages.
        activations: What it gives.
        of_pass: The rows and tokens that the model runs, if they are known.

    Raises:
        ValueError: The activations are not vectors of these tokens, [batch, pos, ...].
    """
    shape = tuple(activations.shape) if isinstance(activations, torch.Tensor) else ()
    if len(shape) < 3 or of_pass not in (None, shape[:2]):
        over = "" if of_pass is None else f", in a forward pass over {list(of_pass)} tokens [batch, pos]"
        raise ValueError(
            f"The activations at {hook_name!r} are {type(activations).__name__} of the shape {shape}{over}. Interventions act on vectors of tokens, "
            "[batch, pos, ...]; choose a hook that has them."
        )
    return shape[0], shape[1]

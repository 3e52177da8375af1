"""Where representations are read: the residual stream, and keys and values before and after LIMe's routing."""

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_ext.analysis.attached_routers import require_attached
from sae_lens_ext.analysis.site_reading import activations_at
from sae_lens_ext.language_model import find_hook_point
from sae_lens_ext.language_model.hook_points import hook_points_of

RESIDUAL, KEYS, VALUES = "residual", "keys", "values"
SITES = (RESIDUAL, KEYS, VALUES)
ROUTED = {KEYS: "routed keys", VALUES: "routed values"}
"""What attention reads with LIMe, by the site of each layer's own."""
EMBEDDING = -1
"""The layer that the residual stream has before block 0."""
Place = tuple[str, int]
"""A site and a layer."""
_HOOKS = {RESIDUAL: "hook_resid_post", KEYS: "attn.hook_k", VALUES: "attn.hook_v"}


class SiteReader:
    """Reads a model's sites, all layers of each in one forward pass.

    Args:
        caller: Function the sites were given to, for messages.
        model: A HookedTransformer or TransformerBridge.
        sites: Some of "residual", "keys" and "values".
        routers: LIMe's, attached to the model, or None.
        autocast: Run the model in bfloat16.

    Raises:
        ValueError: There is no such site, or one is given twice, or the model has no hook there; the routers are not this model's, or it has some that were not
            given.
    """

    def __init__(
        self, caller: str, model: Any, sites: Sequence[str], routers: Any, *, autocast: bool
    ) -> None:
        hook_points_of(model)
        _require_sites(caller, sites)
        _require_routers(caller, model, routers)
        self.caller, self.model, self.routers, self.autocast = caller, model, routers, autocast
        self.sites = tuple(sites)
        n = model.cfg.n_layers
        self.places: list[Place] = []
        """All that is read, by site and then by layer."""
        self.hooks: dict[Place, str] = {}
        """The hook of each place that is read by one; of a model with LIMe that sees what is routed."""
        for site in sites:
            if site == RESIDUAL:
                self._add(site, EMBEDDING, "blocks.0.hook_resid_pre")
            elif routers is not None:
                self.places += [(site, layer) for layer in range(n)]
            for layer in range(n):
                self._add(
                    site if routers is None else ROUTED.get(site, site),
                    layer,
                    f"blocks.{layer}.{_HOOKS[site]}",
                )
        for hook in self.hooks.values():
            find_hook_point(model, hook)

    def _add(self, site: str, layer: int, hook: str) -> None:
        self.places.append((site, layer))
        self.hooks[site, layer] = hook

    @torch.no_grad()
    def read(self, tokens: torch.Tensor) -> dict[Place, torch.Tensor]:
        """Run the model on token ids [batch, pos]; give representations by place, [batch, pos, d], heads flattened, on the CPU in the model's precision.

        Raises:
            ValueError: There is NaN or infinity among them.
            RuntimeError: A hook never fired.
        """
        hooks = list(self.hooks.values())
        if self.routers is None:
            at, own = activations_at(self.model, tokens, hooks, autocast=self.autocast), {}
        else:
            with self.routers.recording() as memory:
                at = activations_at(self.model, tokens, hooks, autocast=self.autocast)
            own = {KEYS: memory.keys, VALUES: memory.values}
        found: dict[Place, torch.Tensor] = {}
        for place in self.places:
            site, layer = place
            x = at[self.hooks[place]] if place in self.hooks else own[site][layer].flatten(start_dim=2)
            if not torch.isfinite(x).all():
                where = "the embedding" if layer == EMBEDDING else f"layer {layer}"
                raise ValueError(
                    f"{self.caller} found NaN or infinity in the {site} of {where}. Look at the precision: float16 overflows where bfloat16 does not."
                )
            found[place] = x.detach().cpu()
        return found


def _require_sites(caller: str, sites: Any) -> None:
    if (
        isinstance(sites, str)
        or not isinstance(sites, Sequence)
        or not sites
        or any(site not in SITES for site in sites)
        or len(set(sites)) < len(sites)
    ):
        raise ValueError(
            f"{caller} was given sites = {sites!r}. Give some of {', '.join(map(repr, SITES))}, each once, such as ('residual', 'values')."
        )


def _require_routers(caller: str, model: Any, routers: Any) -> None:
    if routers is not None:
        require_attached(caller, model, routers)
        return
    points = hook_points_of(model).values()
    routed = any(
        getattr(handle.user_hook, "routes_layers", False) for point in points for handle in point.fwd_hooks
    )
    if routed:
        raise ValueError(
            f"{caller} was given a model with LIMe attached, but not its routers. Give routers=, what attach_lime returned; or detach them to measure the model "
            "without, by routers.detach()."
        )

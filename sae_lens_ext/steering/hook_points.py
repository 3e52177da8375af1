"""The hook point that a name stands for, also where an SAE is attached."""

import re
from dataclasses import dataclass
from typing import Any

from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.language_model import find_hook_point, same_hook
from sae_lens_ext.language_model.hook_points import hook_points_of
from sae_lens_ext.steering.effects import AddedVector, ComputedChange
from sae_lens_ext.steering.intervention import SingleIntervention

_ATTACHED_OUTPUT = "hook_sae_output"
OF_WIDTH_D_MODEL = re.compile(
    r"blocks\.\d+\.(hook_resid_(pre|mid|post)|hook_in|hook_out|hook_(mlp|attn)_out|(mlp|attn)\.hook_out)"
)
"""Names of the residual stream, and of what is added to it."""


@dataclass(frozen=True, eq=False)
class SteeredPoint:
    """Where a hook name leads in a model as it is now."""

    name: str
    """The model's own name of the point."""
    point: HookPoint
    """The point; of an attached SAE the one after it has decoded and added its error term."""

    def holds_in(self, model: Any) -> bool:
        """Tell whether it still does: attaching and removing SAEs puts new points in the place of old ones."""
        return _registry(model).get(self.name) is self.point

    def honoured_name(self, model: Any, given: str) -> str:
        """Give a name by which the model's `run_with_hooks` reaches the point, and reaches it once.

        Raises:
            ValueError: There is none, as after an SAE was attached to a TransformerBridge and removed.
        """
        if not isinstance(model, TransformerBridge):
            return self.name
        points = model.hook_dict
        for name in (self.point.name, self.name, given):
            if (
                name in points and points.get(points[name].name or name) is self.point
            ):  # an alias is looked up again
                return name
        raise ValueError(
            f"run_with_hooks of this {type(model).__name__} no longer reaches {given!r} by name, as happens after an SAE was attached there and "
            "removed. Use steer(model, ...), which does reach it, or load the model anew."
        )


def steered_point(model: Any, hook_name: str) -> SteeredPoint:
    """Find where an intervention at a hook acts: at the hook, or at the output of an SAE that is attached to it.

    Args:
        model: A HookedTransformer or TransformerBridge, with SAEs attached or not.
        hook_name: Under any name the model knows.

    Raises:
        ValueError: The model has no such hook, or no hooks at all, or a transcoder that is attached there reads it and would not see a
            change.
    """
    hook_points_of(model)
    resolve = getattr(model, "_resolve_hook_name", None)
    resolved = hook_name if resolve is None else resolve(hook_name)
    for reads in getattr(model, "_transcoder_output_hooks", {}):
        if same_hook(reads, hook_name) or resolved == (reads if resolve is None else resolve(reads)):
            raise ValueError(
                f"A transcoder that is attached to the model reads {hook_name!r}, before an intervention there could act, so that half of the model would "
                "not see it. Call model.reset_saes() first, or act at another hook."
            )
    registry = _registry(model)
    for name, point in registry.items():
        site, _, end = name.rpartition(".")
        if end == _ATTACHED_OUTPUT and (site == resolved or same_hook(site, hook_name)):
            return SteeredPoint(name, point)
    point = find_hook_point(model, hook_name)
    name = next((name for name, other in registry.items() if other is point), hook_name)
    return SteeredPoint(name, point)


def require_residual_width(model: Any, part: SingleIntervention) -> None:
    """Raise ValueError if an intervention at the residual stream, or at what is added to it, is not of the model's width.

    Args:
        model: The model.
        part: The intervention. At other hooks the widths are met when the model runs.
    """
    d_model = getattr(model.cfg, "d_model", None)
    if d_model is None or part.site.head is not None or not OF_WIDTH_D_MODEL.fullmatch(part.site.hook_name):
        return
    effect = part.effect()
    if isinstance(effect, ComputedChange):
        return  # it knows its width when it is computed
    vector = isinstance(effect, AddedVector)
    width = len(effect.vector) if vector else effect.sae.cfg.d_in
    if width != d_model:
        what = f"adds a vector of {width} numbers" if vector else f"is of an SAE with d_in = {width}"
        raise ValueError(
            f"{part} {what}, but the activations at {part.site.hook_name!r} have width {d_model}, the model's d_model. Give a vector or an SAE of this "
            "model and hook."
        )


def _registry(model: Any) -> dict[str, HookPoint]:
    """The model's points by its own names; SAEs attached to a TransformerBridge are in it as they are."""
    return model._hook_registry if isinstance(model, TransformerBridge) else model.hook_dict

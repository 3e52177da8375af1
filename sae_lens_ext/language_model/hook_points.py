"""Acting on a model's activations by name, the same way on every kind of model, and never in silence."""

import difflib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformer_lens.hook_points import HookPoint

from sae_lens_ext.language_model.hook_names import same_hook

HookFunction = Callable[[torch.Tensor], torch.Tensor | None]


def find_hook_point(model: Any, hook_name: str) -> HookPoint:
    """Find the hook point of a name, HookedTransformer's or TransformerBridge's.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM.
        hook_name: Such as `blocks.10.hook_resid_post` or `blocks.10.hook_out`, whichever the model uses.

    Returns:
        The hook point, one object for all names of the site.

    Raises:
        ValueError: The model has no such hook, or no hooks at all.
    """
    points = hook_points_of(model)
    if hook_name in points:
        return points[hook_name]
    for alias in _aliases(model, hook_name):
        if alias in points:
            return points[alias]
    for name, point in points.items():
        if same_hook(name, hook_name):
            return point
    close = difflib.get_close_matches(hook_name, points, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise ValueError(
        f"The model {type(model).__name__} has no hook {hook_name!r}.{hint} All names are in model.hook_dict."
    )


def hook_points_of(model: Any) -> Mapping[str, HookPoint]:
    """Give a model's hook points by its names for them.

    Raises:
        ValueError: It has none, as a plain Hugging Face model.
    """
    points = getattr(model, "hook_dict", None)
    if not isinstance(points, Mapping):
        raise ValueError(
            f"{type(model).__name__} is no model with hook points. Give a HookedTransformer, or a TransformerBridge: "
            "TransformerBridge.boot_transformers(name) loads one, and with hf_model= makes one of a Hugging Face model."
        )
    return points


def _aliases(model: Any, hook_name: str) -> list[str]:
    """A TransformerBridge's names for HookedTransformer's, `blocks.0.attn.o.hook_in` for `blocks.0.attn.hook_z`; several are tried in turn."""
    from transformer_lens.model_bridge import TransformerBridge

    if not isinstance(model, TransformerBridge):
        return []
    known: dict[str, Any] = {**model.hook_aliases, **model._collect_hook_aliases_from_registry()}
    found = known.get(hook_name)
    if found is None:
        return []
    return [found] if isinstance(found, str) else list(found)


@contextmanager
def hooked(model: Any, functions: Mapping[str, HookFunction]) -> Generator[None, None, None]:
    """Run functions on activations while the block lasts, and raise if one of them never ran.

    Unlike `model.hooks(...)` this acts on every kind of model alike, and an unknown name is an error.

    Args:
        model: As for `find_hook_point`.
        functions: By hook name: takes the activations, returns what shall take their place, or None to
            leave them.

    Raises:
        ValueError: The model has no such hook. Nothing has run.
        RuntimeError: The block ended, but some hook never fired: the model was not run, or stopped
            before it.
    """
    points = {name: find_hook_point(model, name) for name in functions}
    fired = dict.fromkeys(functions, 0)

    def counting(name: str) -> Callable[..., torch.Tensor | None]:
        def run(activations: torch.Tensor, hook: Any = None) -> torch.Tensor | None:  # noqa: ARG001
            fired[name] += 1
            return functions[name](activations)

        return run

    level = id(fired)  # of this block alone, so that nobody else's hooks are removed with ours
    try:
        for name, point in points.items():
            point.add_hook(counting(name), level=level)
        yield
    finally:
        for point in points.values():
            point.remove_hooks("fwd", level=level)
    silent = [name for name, count in fired.items() if count == 0]
    if silent:
        raise RuntimeError(
            f"The hooks {', '.join(map(repr, silent))} never fired, so nothing happened there. Run the model inside "
            "the block, past these hooks."
        )

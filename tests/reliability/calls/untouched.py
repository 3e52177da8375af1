"""What a call must leave as it was, also one that is refused: the model, its arguments, and torch's own state."""

import random
from typing import Any

import numpy as np
import torch
from transformer_lens.hook_points import HookPoint

from sae_lens_ext.language_model.evaluating import modules_of


class Before:
    """What models, tensors and torch were like; `changes` says what is other now.

    Args:
        things: Models, SAEs and tensors that a call is given.
    """

    def __init__(self, *things: Any) -> None:
        self._things = things
        self._was = self._now()

    def changes(self) -> list[str]:
        """Name what is not as it was."""
        now = self._now()
        return [name for name, value in self._was.items() if not _equal(value, now.get(name))]

    def _now(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "grad mode": torch.is_grad_enabled(),
            "inference mode": torch.is_inference_mode_enabled(),
            "default dtype": torch.get_default_dtype(),
            "number of threads": torch.get_num_threads(),
            "torch's random state": torch.get_rng_state(),
            "NumPy's random state": str(np.random.get_state()[1][:4]) + str(np.random.get_state()[2]),
            "Python's random state": hash(random.getstate()),
        }
        for i, thing in enumerate(self._things):
            if isinstance(thing, torch.nn.Module):
                found |= {f"{name} of argument {i}": value for name, value in _of_module(thing).items()}
            elif isinstance(thing, torch.Tensor):
                found[f"tensor {i}"] = (_copy(thing), thing.requires_grad)
        return found


def _of_module(module: torch.nn.Module) -> dict[str, Any]:
    modules = modules_of(module)
    points = [one for one in modules if isinstance(one, HookPoint)]
    return {
        "hooks": [len(p.fwd_hooks) + len(p.bwd_hooks) + len(p._forward_hooks) for p in points],
        "training mode": [one.training for one in modules],
        "methods": [sorted(name for name in ("forward", "generate") if name in vars(one)) for one in modules],
        "parameters": [_copy(p) for p in module.parameters()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "gradients": [p.grad is None for p in module.parameters()],
    }


def _copy(tensor: torch.Tensor) -> Any:
    return "meta" if tensor.is_meta else tensor.detach().clone()


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(
                a.nan_to_num() if a.is_floating_point() else a, b.nan_to_num() if b.is_floating_point() else b
            )
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)

"""What the benchmark of trained routers compares them with: routers of own layers alone, and gains of norms."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sae_lens_ext.lime import LimeRouters, attach_lime

EVERY = 4
"""One in so many layers has its norm's gain trained: in the embedded model 4608 numbers, where routers have 4176."""
Trained = LimeRouters | dict[int, torch.Tensor]
"""Routers, attached to nothing, or gains by layer, [d_model]."""


@contextmanager
def own_layer_only(routers: LimeRouters) -> Iterator[None]:
    """Keep every gradient but that of the own layer's entries from the routers while the block lasts; AdamW then leaves the others where they are."""

    def masked(gradient: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros_like(gradient)
        mask[:, -1] = 1
        return gradient * mask

    hooks = [R.register_hook(masked) for layer, R in routers.weights.items() if layer > 0]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def gains(model: Any) -> dict[int, torch.nn.Parameter]:
    """Give the gains of the norms before attention of the layers that the control trains, by layer."""
    return {
        layer: next(model.blocks[layer].ln1.parameters()) for layer in range(0, model.cfg.n_layers, EVERY)
    }


@contextmanager
def only_gains(model: Any) -> Iterator[None]:
    """Let gradients reach those gains alone while the block lasts, and put them back as they were."""
    trained = gains(model)
    before = {layer: gain.detach().clone() for layer, gain in trained.items()}
    kept = {id(gain) for gain in trained.values()}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        set_gains(model, before)


@torch.no_grad()
def set_gains(model: Any, values: dict[int, torch.Tensor]) -> None:
    """Copy gains into the model."""
    for layer, gain in gains(model).items():
        gain.copy_(values[layer])


@contextmanager
def applied(model: Any, trained: Trained | None) -> Iterator[None]:
    """Run the model with what was trained, or as it is, while the block lasts."""
    if isinstance(trained, LimeRouters):
        with attach_lime(model, trained):
            yield
    elif trained is None:
        yield
    else:
        with only_gains(model):
            set_gains(model, trained)
            yield

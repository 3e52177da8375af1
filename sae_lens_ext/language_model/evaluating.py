"""Running a model without dropout."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(model: Any) -> Generator[None, None, None]:
    """Switch dropout off while the block lasts."""
    training = [module for module in modules_of(model) if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def modules_of(model: Any) -> list[nn.Module]:
    """Give all modules of a model; a TransformerBridge does not count all those of the model it wraps among its own."""
    found = {id(module): module for module in model.modules()}
    source = getattr(model, "original_model", None)
    if isinstance(source, nn.Module):
        found |= {id(module): module for module in source.modules()}
    return list(found.values())

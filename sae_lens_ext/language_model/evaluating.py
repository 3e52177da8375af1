"""Running a model without dropout."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluating(model: Any) -> Generator[None, None, None]:
    """Switch dropout off while the block lasts."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

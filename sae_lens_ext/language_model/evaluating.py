"""Running a model without dropout."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluating(model: Any) -> Generator[None, None, None]:
    """Switch dropout off while the block lasts."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

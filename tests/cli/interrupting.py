"""Interrupting a training run after so many steps, as Ctrl-C does."""

from typing import Any

import pytest
from sae_lens.training._interruption import InterruptedException


def interrupt_once(monkeypatch: pytest.MonkeyPatch, trainer_class: type[Any], after: int) -> list[int]:
    """Let every trainer note its tokens after each step, and raise once, after so many steps.

    Returns:
        The tokens trained on after each step so far; it grows as training goes on.
    """
    steps: list[int] = []
    original = trainer_class._checkpoint_if_needed

    def noting(trainer: Any) -> None:
        steps.append(trainer.n_training_samples)
        original(trainer)
        if len(steps) == after:
            raise InterruptedException

    monkeypatch.setattr(trainer_class, "_checkpoint_if_needed", noting)
    return steps

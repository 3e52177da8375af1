"""`train_seeds` on the tiny model, and what its SAEs see."""

from typing import Any

import pytest
from sae_lens import SAE

from sae_lens_ext import train_seeds

from .tiny import Seen


@pytest.fixture
def train(hooked_model, token_dataset) -> Any:
    def run(cfg: Any, seeds: Any, **options: Any) -> list[SAE[Any]]:
        return train_seeds(cfg, seeds, override_model=hooked_model, override_dataset=token_dataset, **options)

    return run


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)

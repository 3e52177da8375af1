"""Benchmarks as modules: they import each other from their folder."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Give a benchmark by its name, with its folder on the path while the test lasts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module

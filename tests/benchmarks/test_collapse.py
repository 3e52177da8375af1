"""The benchmark's tiny mode."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def script(load_benchmark: Any) -> ModuleType:
    return load_benchmark("collapse")


def test_tiny_mode_measures_both_variants_over_seeds(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TINY_FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["collapse.py", "--tiny", "--no-figures"])
    script.main()
    found = json.loads((tmp_path / "collapse.json").read_text())["small"]
    plain, lime = found["over_seeds"]["plain"], found["over_seeds"]["LIMe"]
    assert list(plain) == ["residual", "keys", "values"]
    assert list(lime) == ["residual", "keys", "routed keys", "values", "routed values"]
    values = plain["values"]["entropy"]
    for low, mean, high in zip(values["lowest"], values["mean"], values["highest"], strict=True):
        assert 0 < low <= mean <= high
    assert len(found["reports"]["LIMe"]) == 2
    assert not list(tmp_path.glob("*.svg"))

"""The benchmark of the arithmetic task runs from end to end, goes on where it was, and notes what it should."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def script(load_benchmark: Any) -> ModuleType:
    return load_benchmark("lime_arithmetic")


def test_trainings_apart_and_a_last_call_give_the_result(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["--tiny", "--epochs", "0.5", "--seeds", "3", "--cache", str(tmp_path)]
    script.main([*shared, "--variants", "LIMe", "--only-train"])
    folder = tmp_path / "tiny"
    assert [path.name for path in folder.iterdir()] == ["LIMe_3_0.5_epochs_lr_0.003"]
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("LIMe*/*")}
    script.main(shared)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("LIMe*/*")} == trained
    result = json.loads((folder / "lime_arithmetic.json").read_text())
    assert result["plain"]["router_parameters"] == 0
    assert result["LIMe"]["router_parameters"] == 4 * 4 * (2 + 3 + 4)
    assert result["LIMe"]["parameters"] == result["plain"]["parameters"]
    for of in ("answer", "chain"):
        gain, own, base = (
            result["LIMe less plain"][of]["3"]["mean"],
            result["LIMe"]["over_seeds"][of]["3"]["mean"],
            result["plain"]["over_seeds"][of]["3"]["mean"],
        )
        assert gain == pytest.approx(own - base)
    assert set(result["step_milliseconds"]) == {"batch", "plain", "LIMe", "uniform average"}
    assert "plain seed 3 ArithmeticAccuracy on 16 expressions" in capsys.readouterr().out


def test_a_seed_has_the_same_weights_with_routers_and_without(script: ModuleType) -> None:
    plain, none = script.build("plain", 5)
    routed, routers = script.build("LIMe", 5)
    assert none is None and routers.model is routed
    for (name, p), (other, q) in zip(plain.named_parameters(), routed.named_parameters(), strict=True):
        assert name == other and (p == q).all()


def test_the_figure_has_a_line_of_means_and_the_seeds(script: ModuleType, tmp_path: Path) -> None:
    task = script.TINY
    runs = {
        variant: {s: script.run(variant, s, 0.3, 1e-3, task.examples(), task, tmp_path) for s in (0, 1)}
        for variant in ("plain", "LIMe")
    }
    traces = script.figure(runs, task).data
    assert [trace.name for trace in traces if trace.mode != "markers"] == ["plain", "LIMe"]
    assert sum(trace.mode == "markers" for trace in traces) == 4
    shares = [runs["LIMe"][seed].accuracy.accuracy(3).value for seed in (0, 1)]
    assert traces[-1].y[1] == sum(shares) / 2

"""`sae-lens-ext flow`: which features it takes, what it prints and writes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_ext import FlowGraph
from sae_lens_ext.analysis.flow import TopActivations
from sae_lens_ext.cli import flow, main
from tests.analysis.flow.dictionaries import ATT, MLP, RES, sae_of

D = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """SAEs of two layers, each feature of layer 1 that of layer 0 with the next index."""
    rows = torch.nn.functional.normalize(torch.randn(8, D, generator=torch.Generator().manual_seed(0)), dim=1)
    for hook, own in {
        RES.format(0): rows,
        RES.format(1): rows.roll(-1, dims=0),
        MLP.format(1): torch.randn(8, D, generator=torch.Generator().manual_seed(1)),
    }.items():
        sae = sae_of(own, hook, model="tiny")
        sae.cfg.metadata.context_size = 16
        sae.save_model(tmp_path / "saes" / hook)
    return tmp_path / "saes"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, hooked_model: Any) -> None:
    """Give the tiny model for any name, and some documents for any text."""
    monkeypatch.setattr(flow, "load_any_language_model", lambda *_: hooked_model)
    monkeypatch.setattr(flow, "load_documents", lambda *_: ["w1 w2 w3 w4 w5 w6 w7 w8"] * 40)


def test_flow_prints_the_chain_and_writes_graph_and_page(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    start = f"{RES.format(1)}:2"
    assert main(["flow", str(folder), "--start", start, "--thresholds", "paper", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1/res/2" in printed
    assert "No SAE of the attention output at layers 0, 1." in printed
    assert FlowGraph.load(out / "graph.json").chain() == [(RES.format(0), 3), (RES.format(1), 2)]
    assert "<html" in (out / "graph.html").read_text()


def test_flow_knows_features_by_their_short_names(folder: Path, capsys) -> None:
    assert (
        main(["flow", str(folder), "--start", "1/res/2", "--start", "1/mlp/0", "--thresholds", "none"]) == 0
    )
    printed = capsys.readouterr().out
    assert "1/res/2" in printed and "1/mlp/0" in printed


def test_flow_shows_what_features_fire_on(folder: Path, tmp_path: Path, no_hub: None, capsys) -> None:
    out = tmp_path / "out"
    words = ["flow", str(folder), "--start", "1/res/2", "--text", "any", "--tokens", "64", "--out", str(out)]
    assert main(words) == 0
    assert "fires on" in capsys.readouterr().out
    assert (RES.format(1), 2) in TopActivations.load(out / "activations.json")


def test_flow_of_a_whole_model_sums_up_the_origins(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["flow", str(folder), "--all", "--thresholds", "paper", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Layer 1" in printed and "translated" in printed
    assert len(FlowGraph.load(out / "graph.json").nodes) == 24
    assert not (out / "graph.html").exists()
    assert json.loads((out / "graph.json").read_text())["thresholds"]["residual"] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--start", "1/res/99"], "the feature 99"),
        (["--start", "7/res/1"], "there is no residual SAE of layer 7"),
        (["--start", "nonsense"], "is no feature. Give HOOK:INDEX"),
        (["--start", f"{ATT.format(0)}:1"], "no SAE at"),
        (["--all", "--text", "any"], "--text is for single features"),
    ],
)
def test_flow_refuses(folder: Path, words: list[str], message: str, capsys) -> None:
    assert main(["flow", str(folder), *words]) == 1
    assert message in capsys.readouterr().err


def test_flow_refuses_an_output_that_is_a_file(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["flow", str(folder), "--all", "--out", str(tmp_path / "file")]) == 1
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"

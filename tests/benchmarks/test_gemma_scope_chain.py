"""The check of Gemma Scope's chain, on made-up SAEs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sae_lens_ext import FlowGraph, FlowThresholds, trace_feature
from tests.analysis.flow.dictionaries import MLP, RES, axes, sae_of


@pytest.fixture
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "gemma_scope_chain.py"
    spec = importlib.util.spec_from_file_location("gemma_scope_chain", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def graph() -> FlowGraph:
    """Three layers: 0/res/1 → 1/res/0 → 2/res/2, with 1/mlp/1 joining at layer 1."""
    joined = torch.tensor([[0.8, 0.6, 0.0, 0.0, 0.0, 0.0]])
    sites = {
        RES.format(0): sae_of(axes(3, 0), RES.format(0)),
        RES.format(1): sae_of(joined, RES.format(1)),
        RES.format(2): sae_of(torch.cat([torch.tensor(axes(4, 5)), joined]), RES.format(2)),
        MLP.format(1): sae_of(axes(5, 1), MLP.format(1)),
    }
    return trace_feature(sites, (RES.format(1), 0), thresholds=FlowThresholds(mlp=0.25))


def test_a_graph_as_printed_has_no_differences(script: ModuleType, graph: FlowGraph) -> None:
    scores = {(1, "residual"): 0.8, (1, "mlp"): 0.6}
    assert script.differences(graph, {0: 1, 1: 0, 2: 2}, {1: 1}, scores) == []


def test_every_difference_is_said(script: ModuleType, graph: FlowGraph) -> None:
    found = script.differences(graph, {0: 0, 1: 0, 2: 2, 3: 9}, {0: 4}, {(1, "mlp"): 0.7})
    assert found == [
        "Layer 0: residual feature 1, printed 0.",
        "Layer 3: residual feature None, printed 9.",
        "Layer 0: MLP feature None, printed 4.",
        "Layer 1: MLP feature 1, printed None.",
        f"Layer 1: mlp score {graph.node_frame().set_index(['layer', 'kind'])['mlp_score'][1, 'residual']}, printed 0.7.",
    ]


def test_the_printed_chain_is_whole(script: ModuleType) -> None:
    assert sorted(script.CHAIN) == list(range(26))
    assert (script.CHAIN[7], script.CHAIN[17], script.CHAIN[0]) == (16335, 8130, 14403)
    assert all(0 <= index < 16_384 for index in (*script.CHAIN.values(), *script.MLP.values()))

import json

import numpy as np
import pytest

from sae_lens_ext.analysis.flow.page import payload as module
from sae_lens_ext.analysis.flow.page.payload import payload, to_json
from sae_lens_ext.analysis.top_contexts import Context
from tests.analysis.flow.page.graphs import MadeUpActivations, graph_of, hook, traced

A, B = (hook(0), 3), (hook(1), 4)


def test_numbers_are_the_shortest_decimals_and_nan_is_none() -> None:
    content = payload(graph_of([(A, B, 0.3, float("nan"))]), "t")
    assert content["edges"]["score"] == [0.3]
    assert content["edges"]["quantile"] == [None]
    assert content["nodes"]["scores"] == [[None, None, None], [0.3, None, None]]


def test_the_graph_is_there_column_by_column() -> None:
    graph = traced(6, 3)
    content = json.loads(to_json(payload(graph, "Flow")))
    assert content["title"] == "Flow"
    hooks, nodes = content["hooks"], content["nodes"]
    assert [(hooks[h]["name"], i) for h, i in zip(nodes["hook"], nodes["index"], strict=True)] == graph.nodes
    assert content["edges"]["source"] == graph.edge_source.tolist()
    assert np.float32(content["edges"]["score"]).tolist() == graph.edge_score.tolist()
    assert [graph.nodes[i] for i in content["starts"]] == list(graph.starts)
    assert {h["neuronpedia"] for h in hooks if h["name"] == hook(1)} == {
        "https://www.neuronpedia.org/gemma-2-2b/1-gemmascope-res-16k/"
    }
    assert len(content["uses"]) == len(graph.nodes)


def test_features_that_were_not_measured_have_no_use() -> None:
    graph = graph_of([(A, B, 0.5, 1.0)], activations=MadeUpActivations({A: [(" a", 1.5)]}, {}))
    uses = payload(graph, "t")["uses"]
    assert uses == [{"rate": 0.0123, "tokens": [[" a", 1.5]], "contexts": []}, None]
    assert payload(graph_of([(A, B, 0.5, 1.0)]), "t")["uses"] is None


@pytest.mark.parametrize("peak", [0, 40, 150, 199])
def test_a_long_context_is_cut_around_its_peak(peak: int) -> None:
    tokens = tuple(f" t{i}" for i in range(200))
    context = Context(text="x", tokens=tokens, activations=tuple(map(float, range(200))), peak=peak)
    graph = graph_of([(A, B, 0.5, 1.0)], activations=MadeUpActivations({A: []}, {A: [context]}))
    (shown,) = payload(graph, "t")["uses"][0]["contexts"]
    assert len(shown["tokens"]) == len(shown["activations"]) == module.CONTEXT_TOKENS
    assert shown["tokens"][shown["peak"]] == f" t{peak}"
    assert shown["cut"] == [shown["tokens"][0] != " t0", shown["tokens"][-1] != " t199"]


def test_a_large_graph_shows_one_context_of_each_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced(4, 1)
    monkeypatch.setattr(module, "NODES_WITH_ALL_CONTEXTS", len(graph.nodes))
    assert {len(use["contexts"]) for use in payload(graph, "t")["uses"]} == {4}
    monkeypatch.setattr(module, "NODES_WITH_ALL_CONTEXTS", len(graph.nodes) - 1)
    assert {len(use["contexts"]) for use in payload(graph, "t")["uses"]} == {1}


def test_json_in_a_script_element_cannot_end_it() -> None:
    text = to_json({"a": "</script><!--", "b": "&lt;\u2028\ud800"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--", "b": "&lt;\u2028\ud800"}


def test_provenance_may_hold_what_json_does_not_know() -> None:
    graph = graph_of(
        [(A, B, 0.5, 1.0)], provenance={"nan": float("nan"), "path": np.float32(1), "list": (1, None)}
    )
    assert payload(graph, "t")["provenance"] == {"nan": "nan", "path": "1.0", "list": [1, None]}

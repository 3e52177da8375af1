import json

import networkx as nx
import pytest
import torch

from sae_lens_ext.analysis.flow import FlowGraph, FlowSites, flow_map, trace_feature
from tests.analysis.flow.dictionaries import MLP, RES, sae_of


def _graph() -> FlowGraph:
    generator = torch.Generator().manual_seed(3)
    saes = {
        hook: sae_of(torch.randn(5, 4, generator=generator), hook)
        for hook in (RES.format(0), RES.format(1), MLP.format(1), RES.format(2))
    }
    saes[RES.format(2)].cfg.metadata.neuronpedia_id = "made-up/2-res"
    return trace_feature(saes, (RES.format(1), 2), thresholds=None, n_null=16)


def test_FlowGraph_saves_and_loads_whole(tmp_path) -> None:
    graph = _graph()
    graph.save(tmp_path / "graph.json")
    again = FlowGraph.load(tmp_path / "graph.json")
    assert again.nodes == graph.nodes
    assert again.to_frame().equals(graph.to_frame())
    assert again.node_frame().equals(graph.node_frame())
    assert (again.starts, again.thresholds, again.missing) == (graph.starts, graph.thresholds, graph.missing)
    assert again.neuronpedia_ids == {RES.format(2): "made-up/2-res"}
    assert again.sites is None
    next(tmp_path.glob("*.safetensors")).write_bytes(b"short")
    with pytest.raises(ValueError, match="truncated"):
        FlowGraph.load(tmp_path / "graph.json")


def test_FlowGraph_to_networkx_has_features_as_nodes_and_scores_on_edges() -> None:
    graph = _graph()
    found = graph.to_networkx()
    assert set(found.nodes) == set(graph.nodes)
    assert nx.is_directed_acyclic_graph(found)
    for source, target, attributes in found.edges(data=True):
        assert found.nodes[source]["layer"] <= found.nodes[target]["layer"]
        assert 0 < attributes["score"] <= 1
        assert 0 <= attributes["null_quantile"] <= 1


def test_FlowGraph_exports_are_read_by_others(tmp_path) -> None:
    graph = _graph()
    graph.to_graphml(tmp_path / "graph.graphml")
    read = nx.read_graphml(tmp_path / "graph.graphml")
    assert set(read.nodes) == {f"{hook}:{index}" for hook, index in graph.nodes}
    assert read.number_of_edges() == len(graph.edge_score)
    graph.to_json(tmp_path / "graph.json")
    content = json.loads((tmp_path / "graph.json").read_text())
    assert len(content["nodes"]) == len(graph.nodes)
    assert content["edges"][0]["score"] == pytest.approx(graph.edge_score[0].item())


def test_FlowGraph_frames_name_hook_layer_and_kind() -> None:
    graph = _graph()
    nodes = graph.node_frame()
    assert set(nodes["kind"]) == {"residual", "mlp"}
    row = nodes[nodes["kind"] == "mlp"].iloc[0]
    assert (row["hook"], row["layer"], row["origin"]) == (MLP.format(1), 1, "")
    edges = graph.to_frame()
    assert (edges["source_layer"] <= edges["target_layer"]).all()
    assert list(edges["target_index"]) == graph.node_index[graph.edge_target].tolist()


def test_FlowGraph_stronger_keeps_seeds_and_drops_what_is_weak() -> None:
    graph = _graph()
    cut = float(graph.edge_score.median())
    strong = graph.stronger(score=cut)
    assert (strong.edge_score >= cut).all()
    assert set(graph.starts) <= set(strong.nodes)
    before = {
        (r.source_hook, r.source_index, r.target_hook, r.target_index) for r in graph.to_frame().itertuples()
    }
    after = {
        (r.source_hook, r.source_index, r.target_hook, r.target_index) for r in strong.to_frame().itertuples()
    }
    assert after < before
    assert graph.stronger(score=1.1).nodes == list(graph.starts)


def test_FlowGraph_subgraph_is_ancestors_and_descendants() -> None:
    generator = torch.Generator().manual_seed(0)
    saes = [sae_of(torch.randn(6, 4, generator=generator), RES.format(layer)) for layer in range(4)]
    whole = flow_map(saes, thresholds=None, n_null=4, show_progress=False)
    seed = (RES.format(2), 1)
    part = whole.subgraph(seed)
    found = whole.to_networkx()
    assert set(part.nodes) == {seed} | nx.ancestors(found, seed) | nx.descendants(found, seed)
    assert set(part.to_networkx().edges) == set(found.subgraph(part.nodes).edges)
    assert part.starts == (seed,)
    both = whole.subgraph([seed, (RES.format(0), 0)])
    assert set(part.nodes) <= set(both.nodes)


def test_FlowGraph_subgraph_keeps_the_modules_that_join() -> None:
    generator = torch.Generator().manual_seed(0)
    saes = [
        sae_of(torch.randn(6, 4, generator=generator), kind.format(layer))
        for layer in range(4)
        for kind in (RES, MLP)
    ]
    whole = flow_map(saes, thresholds=None, n_null=4, show_progress=False)
    traced = trace_feature(saes, (RES.format(2), 1), thresholds=None, n_null=4, forward=False)
    part = whole.subgraph((RES.format(2), 1))
    assert set(traced.nodes) <= set(part.nodes)
    for source, target in whole.to_networkx().edges:
        assert target not in part.nodes or source in part.nodes


def test_FlowGraph_knows_the_SAEs_it_is_made_of() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = {RES.format(layer): torch.randn(5, 4, generator=generator) for layer in range(2)}
    graph = trace_feature(
        {h: sae_of(r, h) for h, r in rows.items()}, (RES.format(1), 2), thresholds=None, n_null=4
    )
    graph.require_made_of(FlowSites.open("test", {h: sae_of(r, h) for h, r in rows.items()}))
    with pytest.raises(ValueError, match="traced through other SAEs"):
        graph.require_made_of(FlowSites.open("test", {h: sae_of(r.flip(0), h) for h, r in rows.items()}))


def test_FlowGraph_refuses_a_node_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="has no node"):
        _graph().position((RES.format(0), 999))


def test_FlowGraph_shows_itself() -> None:
    graph = _graph()
    assert repr(graph).startswith(f"FlowGraph of {len(graph.nodes)} features")
    assert len(repr(graph).splitlines()) == 3
    assert "<table" in graph._repr_html_()
    assert graph.feature_indices()[RES.format(1)] == [2]

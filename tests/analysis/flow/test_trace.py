import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.analysis.flow import FlowSites, FlowThresholds, flow_map, trace_feature, trace_features
from tests.analysis.flow.dictionaries import ATT, MLP, RES, axes, sae_of
from tests.analysis.flow.naive import naive_chain


def _known_graph() -> dict:
    """Axis 0 flows through all four layers; axis 1 is born of the MLP at layer 2; axis 3 joins axis 2 at layer 3 from attention."""
    half = 0.5**0.5
    both = [0.0, 0.0, half, half, 0.0, 0.0]
    return {
        RES.format(0): sae_of(axes(0, 2, 4), RES.format(0)),
        RES.format(1): sae_of(axes(2, 0), RES.format(1)),
        RES.format(2): sae_of(axes(1, 0, 2), RES.format(2)),
        RES.format(3): sae_of([*axes(0, 1), both], RES.format(3)),
        MLP.format(2): sae_of(axes(5, 1), MLP.format(2)),
        ATT.format(3): sae_of(axes(3), ATT.format(3)),
    }


def test_trace_feature_finds_a_known_graph() -> None:
    graph = trace_feature(_known_graph(), (RES.format(1), 1), thresholds=None)
    assert graph.chain() == [
        (RES.format(0), 0),
        (RES.format(1), 1),
        (RES.format(2), 1),
        (RES.format(3), 0),
    ]
    assert set(graph.nodes) == set(graph.chain())
    assert graph.edge_score.tolist() == [1.0, 1.0, 1.0]
    assert graph.origins == ["", "translated", "translated", "translated"]


def test_trace_feature_ends_where_a_feature_is_born() -> None:
    graph = trace_feature(_known_graph(), (RES.format(3), 1), thresholds="paper")
    assert set(graph.nodes) == {(RES.format(3), 1), (RES.format(2), 0), (MLP.format(2), 1)}
    origin = dict(zip(graph.nodes, graph.origins, strict=True))
    assert origin == {(RES.format(3), 1): "translated", (RES.format(2), 0): "newborn", (MLP.format(2), 1): ""}


def test_trace_feature_joins_modules_and_gives_every_score() -> None:
    graph = trace_feature(_known_graph(), (RES.format(3), 2), thresholds="paper")
    node = graph.position((RES.format(3), 2))
    torch.testing.assert_close(
        graph.node_scores[node], torch.tensor([0.5**0.5, float("nan"), 0.5**0.5]), equal_nan=True
    )
    assert graph.origins[node] == "processed"
    assert (ATT.format(3), 0) in graph.nodes
    assert graph.to_networkx().edges[(ATT.format(3), 0), (RES.format(3), 2)]["score"] == pytest.approx(
        0.5**0.5
    )


def test_trace_feature_backward_only_and_forward_only() -> None:
    sites = _known_graph()
    start = (RES.format(1), 1)
    assert trace_feature(sites, start, thresholds=None, forward=False).chain()[-1] == start
    assert trace_feature(sites, start, thresholds=None, backward=False).chain()[0] == start


def test_trace_feature_of_a_module_goes_forward() -> None:
    graph = trace_feature(_known_graph(), (MLP.format(2), 1), thresholds="paper")
    assert set(graph.nodes) == {(MLP.format(2), 1), (RES.format(2), 0), (RES.format(3), 1)}


def test_trace_feature_does_not_leap_over_a_layer_without_an_sae() -> None:
    sites = _known_graph()
    del sites[RES.format(2)]
    graph = trace_feature(sites, (RES.format(3), 0), thresholds=None)
    assert graph.chain() == [(RES.format(3), 0)]
    assert "No SAE of the residual stream at layer 2." in graph.missing


def test_trace_feature_cuts_where_a_score_is_too_low() -> None:
    full = trace_feature(_known_graph(), (RES.format(3), 2), thresholds=None)
    cut = trace_feature(_known_graph(), (RES.format(3), 2), thresholds=FlowThresholds(residual=0.8))
    assert len(full.chain()) == 4
    assert cut.chain() == [(RES.format(3), 2)]


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_trace_feature_agrees_with_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    saes = {
        hook: sae_of(torch.randn(6, 4, generator=generator), hook)
        for kind, layers in ((RES, range(4)), (MLP, range(3)), (ATT, (1, 3)))
        for hook in (kind.format(layer) for layer in layers)
    }
    layer, index = seed % 4, seed % 6
    graph = trace_feature(saes, (RES.format(layer), index), thresholds=None, n_null=4)
    nodes, edges = naive_chain(saes, layer, index, 4)
    assert set(graph.nodes) == nodes
    found = {
        (graph.nodes[s], graph.nodes[t]): score
        for s, t, score in zip(
            graph.edge_source.tolist(), graph.edge_target.tolist(), graph.edge_score.tolist(), strict=True
        )
    }
    assert found == pytest.approx(edges, abs=1e-5)


def test_trace_features_holds_what_traces_share_once() -> None:
    sites = _known_graph()
    starts = [(RES.format(0), 0), (RES.format(3), 0), (RES.format(3), 1), (RES.format(3), 0)]
    graph = trace_features(sites, starts, thresholds="paper", show_progress=False)
    assert graph.starts == ((RES.format(0), 0), (RES.format(3), 0), (RES.format(3), 1))
    assert len(set(graph.nodes)) == len(graph.nodes) == 7
    assert graph.chain((RES.format(3), 1)) == [(RES.format(2), 0), (RES.format(3), 1)]
    with pytest.raises(ValueError, match="has 3 starts"):
        graph.chain()


def test_trace_feature_refusals() -> None:
    sites = _known_graph()
    with pytest.raises(ValueError, match="trace_feature was given no SAE at 'blocks.9.hook_out'"):
        trace_feature(sites, ("blocks.9.hook_out", 0))
    with pytest.raises(
        ValueError, match="the feature 7 of 'blocks.3.hook_resid_post', whose SAE has the features 0 to 2"
    ):
        trace_feature(sites, (RES.format(3), 7))
    with pytest.raises(ValueError, match=r"Give \(hook name, index\)"):
        trace_feature(sites, "blocks.3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no feature to start from"):
        trace_features(sites, [])
    with pytest.raises(ValueError, match="no null model"):
        trace_feature(sites, (RES.format(3), 0), null="none")  # type: ignore[arg-type]


def test_flow_map_holds_every_backward_match() -> None:
    generator = torch.Generator().manual_seed(0)
    saes = {
        hook: sae_of(torch.randn(9, 5, generator=generator), hook)
        for kind in (RES, MLP, ATT)
        for hook in (kind.format(layer) for layer in range(3))
    }
    whole = flow_map(saes, thresholds=None, n_null=8, show_progress=False)
    assert len(whole.nodes) == 9 * 9
    edges = set(zip(whole.edge_source.tolist(), whole.edge_target.tolist(), strict=True))
    for layer in range(3):
        for index in range(9):
            traced = trace_feature(saes, (RES.format(layer), index), thresholds=None, forward=False, n_null=8)
            for node, scores, origin in zip(traced.nodes, traced.node_scores, traced.origins, strict=True):
                position = whole.position(node)
                torch.testing.assert_close(whole.node_scores[position], scores, equal_nan=True)
                assert whole.origins[position] == origin
            named = traced.nodes
            for source, target in zip(traced.edge_source.tolist(), traced.edge_target.tolist(), strict=True):
                assert (whole.position(named[source]), whole.position(named[target])) in edges
    assert whole.chain((RES.format(2), 4))[-1] == (RES.format(2), 4)


def test_flow_map_needs_two_sites_that_follow_one_another() -> None:
    with pytest.raises(ValueError, match="none comes before another"):
        flow_map(
            {RES.format(0): sae_of(axes(0), RES.format(0)), RES.format(2): sae_of(axes(0), RES.format(2))}
        )


def test_trace_features_opens_each_site_a_few_times_and_not_for_each_feature(tmp_path, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    for layer in range(8):
        sae_of(torch.randn(12, 6, generator=generator), RES.format(layer)).save_model(tmp_path / str(layer))
    sites = FlowSites.open("test", [tmp_path / str(layer) for layer in range(8)])
    opened = []
    monkeypatch.setattr(
        FlowSites,
        "_open",
        lambda self, name, real=FlowSites._open: (opened.append(name), real(self, name))[1],
    )
    trace_features(
        sites, [(RES.format(4), i) for i in range(10)], thresholds=None, n_null=4, show_progress=False
    )
    assert len(opened) <= 3 * 8


def test_a_feature_whose_stream_before_has_no_SAE_has_no_origin() -> None:
    sites = {
        RES.format(0): sae_of(axes(0, 1), RES.format(0)),
        RES.format(2): sae_of(axes(0, 1), RES.format(2)),
        MLP.format(0): sae_of(axes(0), MLP.format(0)),
        MLP.format(2): sae_of(axes(0), MLP.format(2)),
    }
    assert trace_feature(sites, (RES.format(2), 0), thresholds="paper").origins[0] == ""
    assert trace_feature(sites, (RES.format(0), 0), thresholds="paper").origins[0] == "newborn"
    whole = flow_map(sites, thresholds="paper", show_progress=False)
    assert whole.origins[whole.position((RES.format(2), 0))] == ""
    assert whole.origins[whole.position((RES.format(0), 1))] == "unexplained"

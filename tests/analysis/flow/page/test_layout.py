from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.analysis.flow.page.layout import LANES, layout, start_nodes
from tests.analysis.flow.page.graphs import graph_of, hook, traced

STREAM = LANES.index("residual")


def test_a_chain_keeps_one_row_and_modules_stand_beside_it() -> None:
    chain = [(hook(layer), layer + 10) for layer in range(4)]
    edges = [(a, b, 0.9, 1.0) for a, b in pairwise(chain)]
    edges += [((hook(2, "mlp"), 5), chain[2], 0.4, 1.0), ((hook(3, "attention"), 6), chain[3], 0.4, 1.0)]
    graph = graph_of(edges, starts=[chain[2]])
    placed = layout(graph)
    assert placed.layers == (0, 1, 2, 3)
    assert placed.heights == (1, 1, 1)
    assert set(placed.row) == {0}
    where = {node: (placed.column[i], LANES[placed.lane[i]]) for i, node in enumerate(graph.nodes)}
    assert where[hook(2), 12] == (2, "residual")
    assert where[hook(2, "mlp"), 5] == (2, "mlp")
    assert where[hook(3, "attention"), 6] == (3, "attention")


def test_a_branch_takes_the_row_beside_the_chain_it_leaves() -> None:
    a, b, c, d = (hook(0), 0), (hook(1), 1), (hook(1), 2), (hook(2), 3)
    graph = graph_of([(a, b, 0.9, 1.0), (a, c, 0.5, 1.0), (c, d, 0.8, 1.0)], starts=[b])
    row = dict(zip(graph.nodes, layout(graph).row, strict=True))
    assert row[a] == row[b]
    assert row[c] == row[d]
    assert abs(row[c] - row[a]) == 1


def test_chains_that_do_not_meet_in_a_layer_share_a_row() -> None:
    early, late = [(hook(layer), 0) for layer in (0, 1)], [(hook(layer), 0) for layer in (2, 3)]
    graph = graph_of([(*early, 0.9, 1.0), (*late, 0.9, 1.0)], starts=[early[0], late[0]])
    assert set(layout(graph).row) == {0}


def test_features_of_a_module_stand_in_the_order_of_the_rows_they_feed() -> None:
    stream = [(hook(1), i) for i in range(4)]
    modules = [(hook(1, "mlp"), 100 - i) for i in range(4)]
    graph = graph_of(
        [(module, target, 0.4, 1.0) for module, target in zip(modules, stream, strict=True)], starts=stream
    )
    row = dict(zip(graph.nodes, layout(graph).row, strict=True))
    assert [row[module] for module in modules] == [row[target] for target in stream] == [0, 1, 2, 3]


def test_the_lane_above_the_stream_grows_upwards_from_it() -> None:
    edges = [((hook(1, "attention"), i), (hook(1), i), 0.4, 1.0) for i in range(3)]
    edges.append(((hook(2, "attention"), 7), (hook(2), 7), 0.4, 1.0))
    graph = graph_of(edges)
    placed = layout(graph)
    assert placed.heights[LANES.index("attention")] == 3
    assert placed.row[graph.position((hook(2, "attention"), 7))] == 2


def test_layers_without_sites_have_no_column_and_empty_ends_are_cut() -> None:
    a, b = (hook(5), 0), (hook(9), 0)
    graph = graph_of([], starts=[a, b], extra_hooks=[hook(0), hook(7, "mlp"), hook(11)])
    placed = layout(graph)
    assert placed.layers == (5, 7, 9)
    assert placed.column == (0, 2)
    assert start_nodes(graph) == [0, 1]


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 1000))
def test_no_two_features_share_a_place_and_most_chains_are_straight(
    n_layers: int, n_starts: int, seed: int
) -> None:
    graph = traced(n_layers, n_starts, seed=seed)
    placed = layout(graph)
    places = list(zip(placed.column, placed.lane, placed.row, strict=True))
    assert len(set(places)) == len(places)
    for lane, height in enumerate(placed.heights):
        rows = {row for _, own, row in places if own == lane}
        assert max(rows, default=-1) == height - 1
        assert min(rows, default=0) >= 0
    # An edge bends only where a feature has several successors, or was reached by another chain.
    sources = graph.edge_source.tolist()
    for s, t in zip(sources, graph.edge_target.tolist(), strict=True):
        if placed.lane[s] == placed.lane[t] == STREAM and sources.count(s) == 1:
            assert placed.row[s] == placed.row[t]

import numpy as np
import pytest

from sae_lens_ext.analysis.flow.colours import MODULE_COLOURS, ORIGIN_COLOURS
from sae_lens_ext.analysis.flow.sankey import MAX_EDGES, sankey
from tests.analysis.flow.page.graphs import MadeUpActivations, graph_of, hook, traced

A, B, C, M = (hook(0), 3), (hook(1), 4), (hook(2), 5), (hook(2, "mlp"), 6)


def small(**fields: object):
    edges = [(A, B, 0.9, 1.0), (B, C, 0.5, 0.995), (M, C, 0.25, 0.75)]
    return graph_of(edges, starts=[B], origins={B: 1, C: 2}, **fields)  # pyright: ignore[reportArgumentType]


def test_links_are_the_edges_and_as_wide_as_their_score() -> None:
    figure = small().plot()
    diagram = figure.data[0]
    labels = list(diagram.node.label)
    links = {
        (labels[s], labels[t], v)
        for s, t, v in zip(diagram.link.source, diagram.link.target, diagram.link.value, strict=True)
    }
    assert links == {
        ("0/res/3", "<b>1/res/4</b>", np.float32(0.9)),
        ("<b>1/res/4</b>", "2/res/5", 0.5),
        ("2/mlp/6", "2/res/5", 0.25),
    }
    assert "2/mlp/6 → 2/res/5<br>cosine 0.250, null quantile 0.75" in list(diagram.link.customdata)
    assert figure.layout.title.text == "Feature flow, 3 edges"


def test_nodes_are_coloured_by_origin_with_a_legend() -> None:
    figure = small().plot()
    diagram = figure.data[0]
    colour = dict(zip(diagram.node.label, diagram.node.color, strict=True))
    assert colour["<b>1/res/4</b>"] == ORIGIN_COLOURS["translated"]
    assert colour["2/res/5"] == ORIGIN_COLOURS["processed"]
    assert colour["2/mlp/6"] == MODULE_COLOURS["mlp"]
    entries = {trace.name: trace.marker.color for trace in figure.data[1:]}
    assert list(entries) == ["translated", "processed", "no predecessors", "MLP feature"]
    assert set(entries.values()) == set(colour.values())


def test_columns_go_by_layer_with_modules_before_the_stream() -> None:
    diagram = small().plot().data[0]
    x = dict(zip(diagram.node.label, diagram.node.x, strict=True))
    assert x["0/res/3"] < x["<b>1/res/4</b>"] < x["2/mlp/6"] < x["2/res/5"]
    assert all(0 < value < 1 for value in (*diagram.node.x, *diagram.node.y))


def test_hovering_tells_hook_index_scores_and_escaped_top_tokens() -> None:
    activations = MadeUpActivations({C: [("<b>&", 2.0), (" coin", 1.0)], B: []}, {})
    hover = dict(
        zip(
            ("a", "b", "c", "m"),
            sorted(sankey(small(activations=activations)).data[0].node.customdata),
            strict=True,
        )
    )
    assert hover["a"] == "<b>blocks.0.hook_resid_post, 3</b><br>no predecessors"
    assert hover["b"] == (
        "<b>blocks.1.hook_resid_post, 4</b>, start<br>translated<br>s(R) 0.900<br>never fires on the texts read"
    )
    assert "s(R) 0.500, s(M) 0.250" in hover["m"]
    assert "fires on &#x27;&lt;b&gt;&amp;&#x27;, &#x27; coin&#x27;" in hover["m"]
    assert hover["c"] == "<b>blocks.2.hook_mlp_out, 6</b><br>MLP feature"


def test_of_many_edges_the_strongest_are_drawn_and_the_title_says_so() -> None:
    graph = traced(26, 10, seed=2)
    n = len(graph.edge_score)
    assert n > MAX_EDGES
    figure = sankey(graph)
    kept = np.sort(np.array(figure.data[0].link.value, dtype=np.float32))
    assert kept.tolist() == np.sort(graph.edge_score.numpy())[-MAX_EDGES:].tolist()
    assert figure.layout.title.text == f"Feature flow, the strongest 300 of {n} edges"
    assert len(sankey(graph, max_edges=n).data[0].link.value) == n
    used = {*figure.data[0].link.source, *figure.data[0].link.target}
    assert used == set(range(len(figure.data[0].node.label)))


def test_a_graph_without_edges_says_so() -> None:
    figure = graph_of([], starts=[A]).plot()
    assert not figure.data
    assert figure.layout.annotations[0].text.startswith(
        "No edges of 0/res/3: no match passed the thresholds."
    )
    assert graph_of([]).plot().layout.annotations[0].text.startswith("No edges: no match")


def test_max_edges_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="sankey was given max_edges = 0. Give at least 1."):
        sankey(small(), max_edges=0)

"""The page in a real browser: what a reader does, and what then is on the page."""

from pathlib import Path
from typing import Any

import pytest

from sae_lens_ext.analysis.flow.graph import FlowGraph
from sae_lens_ext.analysis.top_contexts import Context
from tests.analysis.flow.page.browser import drive, dump_dom
from tests.analysis.flow.page.graphs import MadeUpActivations, graph_of, hook, traced

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\n",
    "  ",
    "\u202e\u200b",
    "",
]


@pytest.fixture(scope="module")
def graph() -> FlowGraph:
    return traced(12, 10, seed=1)


@pytest.fixture(scope="module")
def seen(graph: FlowGraph, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One visit to the page; each test looks at a part of what was noted."""
    folder = tmp_path_factory.mktemp("visit")
    whole = graph.to_networkx()
    name = short(
        graph, next(seed for seed in graph.starts if whole.in_degree(seed) > 1 and whole.out_degree(seed))
    )
    graph.write_html(folder / "page.html", title="Ten <features>")
    return drive(
        folder / "page.html",
        folder,
        f'const name = "{name}";'
        """
        const counts = () => ({ edges: shown(".edge"), nodes: shown(".node"), text: one("#counts").textContent });
        const where = () => one("#world").getAttribute("transform");
        const first = node(name);
        noted.title = [document.title, one("h1").textContent];
        noted.start = counts();
        await set("score", 0.5);
        noted.atHalf = counts();
        await set("score", 1);
        noted.atOne = { ...counts(), says: one("#nothing").textContent, hidden: one("#nothing").hidden };
        await set("score", one("#score").min);
        await set("quantile-on", true);
        noted.atQuantile = { ...counts(), value: one("#quantile-shown").textContent };
        await set("score", 0.5);
        noted.atBoth = counts();
        await set("quantile-on", false);
        await set("linked", true);
        noted.linked = counts();
        await set("linked", false);
        await set("score", one("#score").min);
        noted.again = counts();

        await click(one("#legend button[data-class=newborn]"));
        noted.withoutNewborn = { ...counts(), left: shown(".node.newborn"), pressed: one("#legend button[data-class=newborn]").getAttribute("aria-pressed") };
        await click(one("#legend button[data-class=newborn]"));
        noted.withNewborn = counts();

        const [x, y] = middle(first.querySelector(".shape"));
        press(document.elementFromPoint(x, y), "pointerover", x, y);
        noted.lit = { node: name, nodes: all(".node.lit").map((e) => e.dataset.name), edges: all(".edge.lit").length, tip: one("#tip").textContent };
        one("#picture").dispatchEvent(new PointerEvent("pointerleave"));
        noted.unlit = all(".lit").length;

        await click(first);
        noted.panel = { name, text: one("#panel").innerText, hidden: one("#panel").hidden, hash: decodeURIComponent(location.hash),
          links: all("#panel a").map((a) => a.href), edges: all("#panel .edges button").map((b) => b.dataset.node), peaks: all("#panel .peak").length,
          contexts: all("#panel .context").length, bars: all("#panel .meter.token").length };
        await click(one("#panel .edges button"));
        noted.followed = one("#panel h2").textContent;
        await key("Escape");
        noted.closed = one("#panel").hidden;

        one("#query").focus();
        await set("query", "paris");
        noted.byToken = { listed: all("#hits li").map((e) => e.textContent), ringed: shown(".node.found"), says: one("#how-many").textContent };
        await set("query", name);
        noted.byName = { listed: all("#hits li").length, ringed: all(".node.found").map((e) => e.dataset.name) };
        await key("Enter");
        const stage = one("#stage").getBoundingClientRect(), at = middle(first.querySelector(".shape"));
        noted.gone = { opened: one("#panel h2").textContent, off: [at[0] - (stage.left + stage.right + 30) / 2, at[1] - (stage.top + stage.bottom + 26) / 2] };
        await set("query", name.split("/").pop());
        noted.byIndex = all(".node.found").map((e) => e.dataset.name);
        await set("query", "zebra crossing");
        noted.nothing = one("#how-many").textContent;
        await key("Escape");
        noted.emptied = [one("#query").value, all(".node.found").length];
        one("#query").blur();
        await key("Escape");

        await click(one("#reset"));
        const whole = where();
        one("#picture").dispatchEvent(new WheelEvent("wheel", { deltaY: -300, clientX: 700, clientY: 500, bubbles: true, cancelable: true }));
        await wait();
        const zoomed = where();
        press(one("#picture"), "pointerdown", 700, 500);
        press(window, "pointermove", 760, 530);
        press(window, "pointerup", 760, 530);
        one("#picture").dispatchEvent(new MouseEvent("click", { bubbles: true }));
        const dragged = where();
        await click(one("#reset"));
        noted.view = { whole, zoomed, dragged, reset: where() };

        first.focus();
        await key("ArrowRight");
        noted.right = document.activeElement.dataset.name;
        await key("Tab");
        noted.tabbed = document.activeElement.dataset.name;
        await key("Enter");
        noted.entered = [one("#panel").hidden, one("#panel h2").textContent];
        await key("Escape");
        noted.escaped = one("#panel").hidden;
        noted.stops = all(".node[tabindex='0']").length;

        noted.foot = one("footer").textContent;
        noted.outside = all("[src], link, iframe, object").map((e) => e.outerHTML).filter((e) => !e.startsWith("<script"));
        """,
    )


def counts_of(graph: FlowGraph, **least: float) -> dict[str, int]:
    left = graph.stronger(**least)
    return {"edges": len(left.edge_score), "nodes": len(left.nodes)}


def short(graph: FlowGraph, feature: tuple[str, int]) -> str:
    return f"{graph.site(feature[0]).short}/{feature[1]}"


def named(graph: FlowGraph, name: str) -> tuple[str, int]:
    return next(node for node in graph.nodes if short(graph, node) == name)


def test_nothing_goes_wrong_and_nothing_is_asked_of_the_network(seen: dict[str, Any]) -> None:
    assert seen["troubles"] == []
    assert seen["requests"] == []
    assert seen["outside"] == []


def test_all_is_shown_at_first(seen: dict[str, Any], graph: FlowGraph) -> None:
    assert seen["start"]["edges"] == len(graph.edge_score)
    assert seen["start"]["nodes"] == len(graph.nodes)
    assert seen["start"]["text"] == f"{len(graph.nodes)} features, {len(graph.edge_score)} edges"
    assert seen["title"] == ["Ten <features>", "Ten <features>"]


def test_the_slider_leaves_what_stronger_leaves(seen: dict[str, Any], graph: FlowGraph) -> None:
    half, one = counts_of(graph, score=0.5), counts_of(graph, score=1.0)
    assert 0 < half["edges"] < len(graph.edge_score)
    assert {k: seen["atHalf"][k] for k in half} == half
    assert (
        seen["atHalf"]["text"]
        == f"{half['nodes']} of {len(graph.nodes)} features, {half['edges']} of {len(graph.edge_score)} edges"
    )
    assert {k: seen["atOne"][k] for k in one} == one == {"edges": 0, "nodes": len(graph.starts)}
    assert seen["atOne"]["says"] == "No edge passes these thresholds." and not seen["atOne"]["hidden"]
    assert seen["again"] == seen["start"]


def test_the_null_quantile_is_a_second_threshold(seen: dict[str, Any], graph: FlowGraph) -> None:
    assert seen["atQuantile"]["value"] == "0.99"
    alone, both = counts_of(graph, null_quantile=0.99), counts_of(graph, score=0.5, null_quantile=0.99)
    assert {k: seen["atQuantile"][k] for k in alone} == alone
    assert {k: seen["atBoth"][k] for k in both} == both
    assert both["edges"] < alone["edges"] < len(graph.edge_score)


def test_only_what_is_linked_to_a_start_can_be_kept(seen: dict[str, Any], graph: FlowGraph) -> None:
    import networkx as nx

    left = graph.stronger(score=0.5)
    undirected = left.to_networkx().to_undirected()
    kept = set().union(*(nx.node_connected_component(undirected, seed) for seed in left.starts))
    assert seen["linked"]["nodes"] == len(kept) < len(left.nodes)
    assert seen["linked"]["edges"] == undirected.subgraph(kept).number_of_edges()


def test_the_legend_hides_an_origin_with_its_edges(seen: dict[str, Any], graph: FlowGraph) -> None:
    newborn = {n for n, origin in zip(graph.nodes, graph.origins, strict=True) if origin == "newborn"}
    assert newborn
    edges = [e for e in graph.to_networkx().edges if not newborn & set(e)]
    nodes = {n for e in edges for n in e} | (set(graph.starts) - newborn)
    assert seen["withoutNewborn"]["edges"] == len(edges)
    assert seen["withoutNewborn"]["nodes"] == len(nodes)
    assert seen["withoutNewborn"]["left"] == 0
    assert seen["withoutNewborn"]["pressed"] == "false"
    assert seen["withNewborn"] == seen["start"]


def test_pointing_lights_up_ancestors_and_descendants(seen: dict[str, Any], graph: FlowGraph) -> None:
    import networkx as nx

    whole, node = graph.to_networkx(), named(graph, seen["lit"]["node"])
    before, after = nx.ancestors(whole, node) | {node}, nx.descendants(whole, node) | {node}
    assert set(seen["lit"]["nodes"]) == {short(graph, n) for n in before | after}
    assert (
        seen["lit"]["edges"]
        == whole.subgraph(before).number_of_edges() + whole.subgraph(after).number_of_edges()
    )
    assert seen["lit"]["node"] in seen["lit"]["tip"]
    assert seen["unlit"] == 0


def test_a_click_opens_the_panel(seen: dict[str, Any], graph: FlowGraph) -> None:
    panel, feature = seen["panel"], named(graph, seen["panel"]["name"])
    position = graph.position(feature)
    assert not panel["hidden"]
    assert panel["hash"] == f"#{panel['name']}"
    lines = panel["text"].splitlines()
    assert lines[1].strip() == panel["name"] or panel["name"] in lines
    assert feature[0] in panel["text"] and str(feature[1]) in lines
    assert graph.origins[position] in panel["text"] and "start" in panel["text"]
    for score in graph.node_scores[position].tolist():
        assert ("–" if score != score else f"{score:.2f}") in lines
    layer = graph.site(feature[0]).layer
    assert panel["links"] == [
        f"https://www.neuronpedia.org/gemma-2-2b/{layer}-gemmascope-res-16k/{feature[1]}"
    ]
    joined = (graph.edge_source == position) | (graph.edge_target == position)
    neighbours = set((graph.edge_source[joined].tolist()) + graph.edge_target[joined].tolist()) - {position}
    assert {int(n) for n in panel["edges"]} == neighbours
    assert panel["bars"] == 6
    assert panel["contexts"] == panel["peaks"] == 4
    assert "fires on 1.23 % of tokens" in panel["text"]


def test_an_edge_of_the_panel_leads_on_and_escape_closes_it(seen: dict[str, Any], graph: FlowGraph) -> None:
    assert seen["followed"] == short(graph, graph.nodes[int(seen["panel"]["edges"][0])])
    assert seen["closed"] is True


def test_search_finds_names_indices_and_tokens(seen: dict[str, Any], graph: FlowGraph) -> None:
    top = graph.activations
    assert top is not None
    with_token = [n for n in graph.nodes if any("paris" in t.lower() for t, _ in top.tokens(*n))]
    assert seen["byToken"]["ringed"] == len(with_token) > 0
    assert len(seen["byToken"]["listed"]) == min(30, len(with_token))
    assert all("Paris" in text for text in seen["byToken"]["listed"])
    assert seen["byToken"]["says"].startswith(f"{len(with_token)} features")
    name = seen["panel"]["name"]
    assert seen["byName"]["ringed"][0] == name
    assert name in seen["byIndex"]
    assert seen["nothing"] == "No feature of this graph fits."
    assert seen["emptied"] == ["", 0]


def test_a_feature_found_is_opened_in_the_middle(seen: dict[str, Any]) -> None:
    assert seen["gone"]["opened"] == seen["panel"]["name"]
    assert max(abs(offset) for offset in seen["gone"]["off"]) < 2


def test_the_view_moves_zooms_and_comes_back(seen: dict[str, Any]) -> None:
    view = seen["view"]

    def numbers(transform: str) -> list[float]:
        return [
            float(part)
            for part in transform.replace("translate(", "").replace(") scale(", " ").rstrip(")").split()
        ]

    whole, zoomed, dragged = map(numbers, (view["whole"], view["zoomed"], view["dragged"]))
    assert zoomed[2] > whole[2] * 1.2
    assert dragged == pytest.approx([zoomed[0] + 60, zoomed[1] + 30, zoomed[2]])
    assert view["reset"] == view["whole"]


def test_the_keyboard_reaches_features(seen: dict[str, Any], graph: FlowGraph) -> None:
    start = named(graph, seen["panel"]["name"])
    after = graph.to_networkx().out_edges(start, data="score")
    assert seen["right"] == short(graph, max(after, key=lambda edge: edge[2])[1])
    assert seen["tabbed"] not in (None, seen["right"])
    assert seen["entered"] == [False, seen["tabbed"]]
    assert seen["escaped"] is True
    assert seen["stops"] == 1


def test_the_foot_says_what_is_missing_and_how_it_was_made(seen: dict[str, Any], graph: FlowGraph) -> None:
    assert graph.missing[0] in seen["foot"]
    assert "gemma-2-2b" in seen["foot"] and "n null" in seen["foot"]


def test_text_of_the_graph_is_never_read_as_html(tmp_path: Path) -> None:
    evil, nxt = (hook(1), 5), (hook(2), 6)
    tops = {evil: [(token, 3.0) for token in HOSTILE], nxt: []}
    contexts = {
        evil: [
            Context(
                text=HOSTILE[1], tokens=tuple(HOSTILE), activations=(1.0, 0.5, 0.0, 0.0, 0.0, 0.0), peak=0
            )
        ]
    }
    graph = graph_of(
        [(evil, nxt, 0.7, 0.9)],
        starts=[evil],
        activations=MadeUpActivations(tops, contexts),
        neuronpedia_ids={hook(1): "\"><img src=x onerror='window.hacked = 1'>"},
        missing=(HOSTILE[0],),
        provenance={"model_name": HOSTILE[1], HOSTILE[1]: {"a": HOSTILE[0]}},
    )
    graph.write_html(tmp_path / "page.html", title=HOSTILE[0] + HOSTILE[1] + "<!--DATA-->")
    noted = drive(
        tmp_path / "page.html",
        tmp_path,
        """
        await click(node("1/res/5"));
        await set("query", "img");
        await wait();
        noted.hacked = window.hacked === undefined ? "no" : "yes";
        noted.images = all("img").length;
        noted.tokens = all("#panel .meter.token code").map((e) => e.textContent);
        noted.context = one("#panel .context").textContent;
        noted.href = one("#panel a").href;
        noted.heading = one("h1").textContent;
        await click(node("2/res/6"));
        noted.silent = one("#panel").innerText;
        """,
    )
    assert noted["troubles"] == []
    assert noted["hacked"] == "no"
    assert noted["images"] == 0
    assert noted["tokens"] == [*HOSTILE[:2], "↵", "··", "⟨202E⟩⟨200B⟩", "∅"]
    assert noted["context"].startswith(HOSTILE[0] + HOSTILE[1] + "↵\n")
    assert noted["href"].startswith("https://www.neuronpedia.org/%22%3E%3Cimg")
    assert noted["heading"] == HOSTILE[0] + HOSTILE[1] + "<!--DATA-->"
    assert "It never fires on the texts that were read." in noted["silent"]


def test_the_page_as_written_runs_under_its_own_policy(tmp_path: Path) -> None:
    alone = (hook(3), 12)
    graph_of([], starts=[alone], thresholds={"residual": 0.9}).write_html(tmp_path / "page.html")
    dom = dump_dom(tmp_path / "page.html", tmp_path)
    assert 'data-name="3/res/12"' in dom
    assert "This graph has no edges: no match passed the thresholds it was traced with." in dom
    assert "Feature flow of 3/res/12" in dom

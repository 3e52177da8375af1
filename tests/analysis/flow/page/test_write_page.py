import re
from importlib.resources import files
from pathlib import Path

import pytest

from sae_lens_ext.analysis.flow import page
from sae_lens_ext.analysis.flow.colours import MODULE_COLOURS, ORIGIN_COLOURS
from sae_lens_ext.analysis.flow.page import write
from sae_lens_ext.analysis.flow.page.write import SCRIPTS, STYLES, write_page
from tests.analysis.flow.page.graphs import graph_of, hook, traced

TEMPLATE = files(page) / "template"


def test_the_page_is_one_file_without_any_address_but_neuronpedias(tmp_path: Path) -> None:
    write_page(traced(4, 2), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]
    assert set(re.findall(r"https?://([^/\"]+)", text)) == {"www.w3.org", "www.neuronpedia.org"}
    assert not re.search(r"<(link|img|iframe|script[^>]+src)|@import|url\((?!#)", text)
    assert "<!--" not in text
    assert "default-src 'none'" in text


def test_the_title_names_the_seeds(tmp_path: Path) -> None:
    seeds = [(hook(layer), layer) for layer in range(5)]
    for graph, title in (
        (graph_of([], starts=seeds[:2]), "Feature flow of 0/res/0, 1/res/1"),
        (graph_of([], starts=seeds), "Feature flow of 0/res/0, 1/res/1, 2/res/2 and 2 more"),
        (graph_of([(seeds[0], seeds[1], 0.5, 1.0)]), "Feature flow"),
    ):
        write_page(graph, tmp_path / "page.html")
        assert f"<title>{title}</title>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_graph_too_large_for_a_page_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced(4, 2)
    (tmp_path / "page.html").write_text("before")
    monkeypatch.setattr(write, "MAX_NODES", len(graph.nodes) - 1)
    with pytest.raises(ValueError, match=f"a graph of {len(graph.nodes)} nodes, .* raise the thresholds"):
        write_page(graph, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "before"


def test_a_graph_without_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without nodes, so there is nothing to draw. Lower the thresholds"):
        write_page(graph_of([]), tmp_path / "page.html")


def test_every_file_of_the_template_is_on_the_page() -> None:
    assert {file.name for file in TEMPLATE.iterdir()} == {"page.html", *STYLES, *SCRIPTS}


def test_the_page_has_the_colours_of_the_other_pictures() -> None:
    light = (TEMPLATE / "colours.css").read_text(encoding="utf-8").partition("@media")[0]
    for name, colour in {**ORIGIN_COLOURS, **MODULE_COLOURS}.items():
        assert f"--{name}: {colour.lower()};" in light


def test_a_start_keeps_the_colour_of_its_origin() -> None:
    keys = re.findall(r'{ key: "(\w+)"', (TEMPLATE / "graph.js").read_text())
    roles = re.findall(r'node\.\w+ \? " (\w+)" : ""', (TEMPLATE / "stage.js").read_text())
    assert "first" in keys and "start" in roles and not set(keys) & set(roles)

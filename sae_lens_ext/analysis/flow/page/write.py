"""Puts the page together: the template's text, style and scripts, and the graph, in one file."""

import base64
import hashlib
import html
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lens_ext.analysis.flow.page.payload import payload, to_json
from sae_lens_ext.analysis.flow.sites import flow_site
from sae_lens_ext.files import write_whole

if TYPE_CHECKING:
    from sae_lens_ext.analysis.flow.graph import FlowGraph

MAX_NODES = 20_000
"""A browser draws no more with ease, and nobody reads more."""

STYLES = ("colours.css", "page.css", "graph.css", "panel.css")
SCRIPTS = (
    "graph.js",
    "text.js",
    "filter.js",
    "view.js",
    "stage.js",
    "labels.js",
    "paths.js",
    "panel.js",
    "search.js",
    "controls.js",
    "main.js",
)
"""In this order they are one module: each uses the names of those before it."""


def write_page(graph: "FlowGraph", path: str | Path, *, title: str | None = None) -> None:
    """Write a flow graph as one interactive HTML file, which needs no server, no network and no other file.

    Args:
        graph: The graph.
        path: The file; its folder must exist. What was there before stays until the new file is whole.
        title: Heading of the page; by default the starts.

    Raises:
        ValueError: The graph has no nodes, or more than `MAX_NODES`.
    """
    n = len(graph.nodes)
    if n == 0:
        raise ValueError(
            "write_html was given a graph without nodes, so there is nothing to draw. Lower the thresholds, or trace from a feature."
        )
    if n > MAX_NODES:
        raise ValueError(
            f"write_html was given a graph of {n:,} nodes, and a page shows at most {MAX_NODES:,}. Trace single features with trace_feature or "
            "trace_features, or raise the thresholds; to_frame, to_json and to_graphml write graphs of any size."
        )
    write_whole(path, html_page(graph, title or _title(graph)))


def html_page(graph: "FlowGraph", title: str) -> str:
    """Give the page as text."""
    style = "\n".join(_template(name) for name in STYLES)
    script = "\n".join(_template(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _template("page.html")
    for mark, text in (
        ("sha256-DIGEST", f"sha256-{digest}"),
        ("<!--TITLE-->", html.escape(title)),
        ("<!--STYLE-->", style),
        ("<!--SCRIPT-->", script),
        ("<!--DATA-->", to_json(payload(graph, title))),
    ):
        page = page.replace(mark, text, 1)
    return page


def _title(graph: "FlowGraph") -> str:
    starts = [f"{flow_site(hook).short}/{index}" for hook, index in graph.starts]
    if not starts:
        return "Feature flow"
    more = f" and {len(starts) - 3} more" if len(starts) > 3 else ""
    return f"Feature flow of {', '.join(starts[:3])}{more}"


@cache
def _template(name: str) -> str:
    return (files("sae_lens_ext.analysis.flow.page") / "template" / name).read_text(encoding="utf-8")

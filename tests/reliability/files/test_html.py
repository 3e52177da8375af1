"""What a user's texts say stays text in every page, table and figure: nothing runs, links or formats."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.flow.page.browser import drive, find_browser
from tests.analysis.flow.page.graphs import MadeUpActivations, graph_of, hook
from tests.analysis.stability.test_stability_report import REPORT as STABILITY
from tests.reliability.files.results import saved_results

EVIL = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "<b>x</b>",
    "&lt;",
    "<!--",
    "a\u2028b",
    "a\x00b",
)
RAW = ("<script>window", "<img src=x", "<b>x")
UNDRAWN = {
    "OriginAgreement",
    "StabilityProbe",
    "PropagatedEffect",
    "ArithmeticAccuracy",
}  # made up too simply
DRAWN = ("DomainReport", "LogitLensResult", "StabilityReport", "TransitionResult")


def poisoned(text: str) -> list[Any]:
    """Results with a text where tokens, texts, and names of SAEs and domains are."""
    found = {type(result).__name__: result for result in saved_results(text)}
    rows = found["DomainReport"].measurements
    named = tuple(replace(row, sae=row.sae + text, domain=row.domain + text) for row in rows)
    found["DomainReport"] = replace(found["DomainReport"], measurements=named)
    found["StabilityReport"] = replace(STABILITY, names=tuple(name + text for name in STABILITY.names))
    rows = tuple(replace(row, name=row.name + text) for row in found["TransitionResult"].rows)
    found["TransitionResult"] = replace(found["TransitionResult"], rows=rows, hook_from=text)
    return [result for name, result in found.items() if name not in UNDRAWN]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from strings(one)
    elif hasattr(value, "tolist"):
        yield from strings(value.tolist())


@pytest.mark.parametrize("evil", EVIL, ids=range(len(EVIL)))
def test_tables_and_figures_have_no_markup_of_the_user(evil: str) -> None:
    for result in poisoned(evil):
        written = [result._repr_html_()]
        if hasattr(result, "plot"):
            written += strings(result.plot().to_dict())
        for raw in RAW:
            assert not [text for text in written if raw in text], (type(result).__name__, raw)


def test_a_link_that_is_none_of_the_web_is_no_link() -> None:
    latents = next(result for result in saved_results() if type(result).__name__ == "NewLatents")
    pair = latents.pairs[0]
    for url, linked in (("javascript:window.hacked=1", False), ("https://neuronpedia.org/a", True)):
        page = replace(latents, pairs=(replace(pair, base=replace(pair.base, url=url)),)).html_section()
        assert ("<a href" in page) is linked


def test_nothing_of_the_users_texts_runs_in_a_browser(tmp_path: Path) -> None:
    find_browser()
    evil = "".join(EVIL[:6])
    features = [(hook(0), 1), (hook(1), 2)]
    tops = MadeUpActivations({feature: [(evil, 1.0)] for feature in features}, {})
    graph = graph_of([(*features, 0.5, 0.75)], starts=features[1:], activations=tops)
    graph.write_html(tmp_path / "flow.html", title=evil)
    results = poisoned(evil)
    drawn = [result for result in results if type(result).__name__ in DRAWN]
    parts: list[str] = []
    latents: Any = None
    for result in results:
        parts.append(result._repr_html_())
        if type(result).__name__ in (
            "DomainReport",
            "LogitLensResult",
            "StabilityReport",
            "TransitionResult",
        ):
            parts.append(result.plot().to_html(full_html=False, include_plotlyjs=result is drawn[0]))
        if type(result).__name__ == "NewLatents":
            latents = result
    latents.write_html(tmp_path / "latents.html", title=evil)
    whole = "<html><head></head><body>" + "\n".join(parts) + "</body></html>"
    (tmp_path / "all.html").write_text(whole, encoding="utf-8")
    for page in ("flow.html", "latents.html", "all.html"):
        noted = drive(
            tmp_path / page,
            tmp_path,
            "await wait(1500); noted.hacked = String(window.hacked); noted.text = document.body.innerText;",
        )
        assert noted["hacked"] == "undefined", page
        if page == "latents.html":
            assert evil in noted["text"]

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts_importable(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def test_results_page_is_what_the_jsons_say():
    from results_page import PAGE, page

    assert PAGE.read_text() == page(), "Run python benchmarks/results_page.py: a JSON has changed since."


def test_every_row_names_a_script_that_is_there():
    from results_page import PAPERS

    for paper in PAPERS:
        assert (BENCHMARKS.parent / "docs" / paper.page).is_file()
        for row in paper.rows:
            assert (BENCHMARKS / f"{row.script}.py").is_file()

"""The notebooks in docs/ are those in notebooks/, executed."""

import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_rendered_notebook_is_its_source_executed(source, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "notebooks"), *sys.path])
    from render import RENDERED, for_readers, with_install_cell

    rendered = nbformat.read(RENDERED / f"{source.stem}.ipynb", as_version=4)
    expected = for_readers(with_install_cell(jupytext.read(source)))
    advice = f"Run python notebooks/render.py {source.stem}, or with --text if nothing but text has changed."
    assert [cell["source"] for cell in rendered.cells] == [cell["source"] for cell in expected.cells], advice
    code = [cell for cell in rendered.cells if cell["cell_type"] == "code"]
    assert any(cell["outputs"] for cell in code)
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])


def test_every_notebook_can_be_switched_to_another_model():
    without = [source.stem for source in SOURCES if 'MODEL = "embedded"' not in source.read_text()]
    # Ranks, kills and the arithmetic of a step are not about a model.
    assert without == ["10_scale", "11_reliability", "12_sparse_steps"]

"""Render the notebooks into docs/notebooks: `python notebooks/render.py [NAME ...]`.

Each is executed with its full budget and saved with its outputs, its figures as pictures, for readers of the docs, of the
repository and of Colab. A first cell is put before the others: where the package is missing it installs it, and keeps the
torch that is there. docs/notebooks/times.json notes how long each took, where and with what.

Needs the extra `docs` and a Chrome or Chromium, by which plotly's figures become pictures.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from execute import FOLDER, execute, set_environment, sources

REPOSITORY = FOLDER.parent
RENDERED = REPOSITORY / "docs" / "notebooks"
TIMES = RENDERED / "times.json"
INSTALL = """\
# Where the package is missing, as in Colab: install it, and keep the torch that is there.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("sae_lens_ext") is None:
    import torch

    with open("torch.txt", "w") as constraint:
        constraint.write(f"torch=={torch.__version__}\\n")
    pip = [sys.executable, "-m", "pip", "install", "-q", "-c", "torch.txt"]
    subprocess.run([*pip, "sae-lens-ext[embedded]"], check=True)  # or the path of a checkout
    subprocess.run([sys.executable, "-m", "sae_lens_ext", "install-embedded"], check=True)"""

INDEX = """\
# Notebooks

One for each capability, with their outputs. All run offline; 1 to 9, on the embedded model, have one cell to change for gpt2 or Gemma 2 2B with Gemma
Scope, and say what to expect there.

| | | run | |
|:--|:--|--:|:--|
{rows}
How long each took: {where}, 1 to 4 and 9 to 12 beside other work. The sources are percent files: open them in VS Code or Jupyter (with jupytext), or run all of them with
`python notebooks/execute.py --full`.

**In Colab**, upload a notebook from this folder, or open it there from the repository. Its first cell installs the package where it is missing, with the torch that is there as a
constraint, so that pip cannot replace it.

These outputs come from `python notebooks/render.py`. What the notebooks do with gpt2 and Gemma 2 2B has been run with random models of their kind
(`python notebooks/execute.py --model gpt2`), not with the hub's weights, and not on a GPU.
"""


def with_install_cell(notebook: Any) -> Any:
    """Put the cell that installs the package behind the title."""
    notebook.cells.insert(1, nbformat.v4.new_code_cell(INSTALL))
    return notebook


def for_readers(notebook: Any) -> Any:
    """Take out what only the machine that ran it had to say, and let links lead to the rendered copies."""
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # jupytext draws one at random
        cell["metadata"] = {}
        if cell["cell_type"] == "markdown":
            cell["source"] = re.sub(r"\]\((\d\d_\w+)\.py\)", r"](\1.ipynb)", cell["source"]).replace(
                "](../docs/", "](../"
            )
            continue
        cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        for output in cell["outputs"]:
            output.get("data", {}).pop("application/vnd.plotly.v1+json", None)
            if "text" in output:
                output["text"] = without_paths(output["text"])
    kept = ("kernelspec", "language_info")
    notebook["metadata"] = {key: notebook["metadata"][key] for key in kept if key in notebook["metadata"]}
    return notebook


def without_paths(text: str) -> str:
    """Put names in place of this machine's folders."""
    return re.sub(r"/tmp/tmp\w+", "/tmp/folder", text.replace(sys.prefix, ".venv"))


def refresh_text(source: Path) -> None:
    """Put the text of a source into its rendered copy, whose outputs stay.

    Raises:
        SystemExit: The code has changed since, so that the outputs are no longer its own.
    """
    path = RENDERED / f"{source.stem}.ipynb"
    rendered, new = nbformat.read(path, as_version=4), for_readers(with_install_cell(jupytext.read(source)))
    if code_of(rendered) != code_of(new):
        raise SystemExit(
            f"The code of {source.name} has changed. Render it anew: {Path(__file__).name} {source.stem}"
        )
    for old, cell in zip(rendered.cells, new.cells, strict=True):
        old["source"] = cell["source"]
    nbformat.write(for_readers(rendered), path)


def code_of(notebook: Any) -> list[str | None]:
    """Give the code of each cell, None where it is text."""
    return [cell["source"] if cell["cell_type"] == "code" else None for cell in notebook.cells]


def note_time(name: str, seconds: float) -> None:
    """Note how long a notebook took, with versions, machine and day."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    from machine import machine

    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    times[name] = {"seconds": round(seconds), "machine": machine()}
    TIMES.write_text(json.dumps(dict(sorted(times.items())), indent=2) + "\n")


def write_index() -> None:
    """Write the list of the notebooks, with how long each took."""
    times = json.loads(TIMES.read_text())
    rows = []
    for source in sources():
        title = next(line for line in source.read_text().splitlines() if line.startswith("# # "))[4:]
        took = times.get(source.stem)
        seconds = f"{took['seconds']} s" if took else ""
        rows.append(
            f"| [{source.stem[:2]}]({source.stem}.ipynb) | {title} | {seconds} | [source](../../notebooks/{source.name}) |\n"
        )
    machine = next(iter(times.values()))["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, no GPU, torch {machine['torch']}"
    (RENDERED / "index.md").write_text(INDEX.format(rows="".join(rows), where=where))


def main() -> int:
    """Render the notebooks; returns the exit status."""
    parser = argparse.ArgumentParser(description="Render the notebooks into docs/notebooks.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="how a notebook's name begins: 04 (default: all)"
    )
    parser.add_argument(
        "--text", action="store_true", help="execute nothing: take over what was changed in the text"
    )
    options = parser.parse_args()

    if options.text:
        for source in sources(options.names):
            refresh_text(source)
        write_index()
        return 0
    set_environment(full=True)
    os.environ["PLOTLY_RENDERER"] = "png"
    RENDERED.mkdir(parents=True, exist_ok=True)
    for source in sources(options.names):
        started = time.monotonic()
        notebook = execute(with_install_cell(jupytext.read(source)))
        seconds = time.monotonic() - started
        nbformat.write(for_readers(notebook), RENDERED / f"{source.stem}.ipynb")
        note_time(source.stem, seconds)
        print(f"{source.name:<32}{seconds:6.1f} s", flush=True)
    write_index()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Execute the notebooks of this folder: `python notebooks/execute.py [NAME ...] [--full] [--model gpt2]`.

The notebooks are kept as Python files in jupytext's percent format. Each is converted and executed in an empty temporary
folder, with SAE_LENS_EXT_SMALL=1 unless --full is given. Ends with status 1 after the first that fails, showing the
cell and its traceback.
"""

import argparse
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import stand_ins
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parent
CELL_TIMEOUT = 1200  # seconds


def sources(names: Sequence[str] = ()) -> list[Path]:
    """Give the notebooks' sources in order: all of them, or those whose names begin with one of `names`.

    Raises:
        SystemExit: A name is no notebook's.
    """
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    for name in names:
        if not any(source.name.startswith(name) for source in found):
            raise SystemExit(f"No notebook begins with {name}. There are {', '.join(s.stem for s in found)}.")
    return [source for source in found if not names or source.name.startswith(tuple(names))]


def execute(notebook: Any) -> Any:
    """Execute a notebook in an empty folder, giving it with its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=CELL_TIMEOUT, kernel_name="python3", resources=resources)
        return client.execute()


def on_hub_model(notebook: Any, model: str) -> bool:
    """Turn a notebook to a model of the hub, with a stand-in for it; False if it has no cell for that."""
    for cell in notebook.cells:
        changed = re.sub(r'^MODEL = "embedded".*', f'MODEL = "{model}"', cell["source"], flags=re.MULTILINE)
        if model in stand_ins.THRESHOLDS:
            cell["source"] = re.sub(
                "(?<=^THRESHOLD = )0.25", stand_ins.THRESHOLDS[model], cell["source"], flags=re.M
            )
        if cell["cell_type"] == "code" and 'MODEL = "embedded"' in cell["source"]:
            if f'MODEL == "{model}"' not in changed and f'MODEL == "{model}-it"' in changed:
                changed = changed.replace(f'MODEL = "{model}"', f'MODEL = "{model}-it"')
            cell["source"] = changed
            notebook.cells.insert(0, nbformat.v4.new_code_cell(stand_ins.CELL.format(folder=str(FOLDER))))
            return True
    return False


def set_environment(*, full: bool) -> None:
    """Set what the notebooks' kernels inherit."""
    os.environ["SAE_LENS_EXT_SMALL"] = "0" if full else "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["TQDM_DISABLE"] = "1"
    if not full:  # on a busy machine several threads spend their time waiting
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> int:
    """Execute the notebooks; returns the exit status."""
    parser = argparse.ArgumentParser(description="Execute the notebooks of this folder.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="how a notebook's name begins: 04 (default: all)"
    )
    parser.add_argument("--full", action="store_true", help="with the full budgets instead of tiny ones")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="gpt2 or gemma-2-2b, answered by random models of their kind: nothing is fetched",
    )
    options = parser.parse_args()

    set_environment(full=options.full)
    for source in sources(options.names):
        started = time.monotonic()
        try:
            notebook = jupytext.read(source)
            if options.model is not None and not on_hub_model(notebook, options.model):
                continue
            execute(notebook)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{source.name:<32}{time.monotonic() - started:6.1f} s   FAILED\n\n{error}")
            return 1
        print(f"{source.name:<32}{time.monotonic() - started:6.1f} s   ok", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

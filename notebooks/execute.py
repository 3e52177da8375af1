"""Execute every notebook of this folder: `python notebooks/execute.py [--write DIR] [--full]`.

The notebooks are kept as Python files in jupytext's percent format. Each is converted and executed in an empty temporary
folder, with SAE_LENS_EXT_SMALL=1 unless --full is given. Ends with status 1 after the first that fails, showing the
cell and its traceback.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parent
CELL_TIMEOUT = 1200  # seconds


def execute(source: Path) -> Any:
    """Convert a percent source and execute it, giving the notebook with its outputs."""
    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=CELL_TIMEOUT, kernel_name="python3", resources=resources)
        return client.execute()


def main() -> int:
    """Execute the notebooks; returns the exit status."""
    parser = argparse.ArgumentParser(description="Execute every notebook of this folder.")
    parser.add_argument("--write", type=Path, metavar="DIR", help="save the executed notebooks there")
    parser.add_argument("--full", action="store_true", help="with the full budgets instead of tiny ones")
    options = parser.parse_args()

    # The kernels inherit these.
    os.environ["SAE_LENS_EXT_SMALL"] = "0" if options.full else "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["TQDM_DISABLE"] = "1"
    if not options.full:
        os.environ.setdefault(
            "OMP_NUM_THREADS", "1"
        )  # on a busy machine several threads spend their time waiting

    for source in sorted(FOLDER.glob("*.py")):
        if source == Path(__file__).resolve():
            continue
        started = time.monotonic()
        try:
            notebook = execute(source)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{source.name:<32}{time.monotonic() - started:6.1f} s   FAILED\n\n{error}")
            return 1
        print(f"{source.name:<32}{time.monotonic() - started:6.1f} s   ok", flush=True)
        if options.write is not None:
            options.write.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, options.write / source.with_suffix(".ipynb").name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

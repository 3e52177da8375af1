"""Run the quickstart from nothing and keep its numbers: the table of the README.

python benchmarks/quickstart.py             writes benchmarks/quickstart.json; about ten minutes on two cores
"""

import json
import tempfile
import time
from pathlib import Path

from machine import machine

from sae_lens_ext.cli import main as command


def main() -> None:
    """Run `sae-lens-ext quickstart` in an empty folder and write the JSON beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        started = time.monotonic()
        status = command(["quickstart", "--out", str(out)])
        if status != 0:
            raise SystemExit(status)
        result = {
            "machine": machine(),
            "command": "sae-lens-ext quickstart",
            "seconds": round(time.monotonic() - started, 1),
            **json.loads((out / "results.json").read_text()),
        }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Run the quickstart from nothing and keep its numbers: the table of the README.

python benchmarks/quickstart.py             writes benchmarks/quickstart.json; about ten minutes on two cores
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from machine import machine

from sae_lens_ext.cli import main as command


def main() -> None:
    """Run `sae-lens-ext quickstart` in an empty folder and write the JSON beside this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder to leave the run in; it must not exist")
    options = parser.parse_args()
    if options.out is not None and options.out.exists():
        raise SystemExit(f"--out {options.out} exists: the time would be that of a part of the run.")
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "run"
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

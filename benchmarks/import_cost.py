"""What `import sae_lens_ext` costs after `import sae_lens`: seconds, in fresh processes, interleaved.

python benchmarks/import_cost.py            writes benchmarks/import_cost.json
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from machine import machine

RUNS = 9
SCRIPT = """
import time, warnings
warnings.simplefilter("ignore")
start = time.perf_counter()
import sae_lens
middle = time.perf_counter()
import sae_lens_ext
print(middle - start, time.perf_counter() - middle)
"""


def main() -> None:
    """Measure and write the JSON beside this file."""
    seconds = [
        tuple(map(float, subprocess.check_output([sys.executable, "-c", SCRIPT], text=True).split()))
        for _ in range(RUNS)
    ]
    result = {
        "machine": machine(),
        "runs": RUNS,
        "sae_lens_seconds": {
            "median": statistics.median(s[0] for s in seconds),
            "all": [s[0] for s in seconds],
        },
        "sae_lens_ext_after_it_seconds": {
            "median": statistics.median(s[1] for s in seconds),
            "min": min(s[1] for s in seconds),
            "max": max(s[1] for s in seconds),
        },
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

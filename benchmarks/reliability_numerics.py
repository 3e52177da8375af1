"""How far every architecture in bfloat16, float16 and autocast is from itself in float64, beside SAELens' own.

Run: python benchmarks/reliability_numerics.py    (two and a half minutes on one CPU core; needs a checkout with its tests)

The SAEs know the directions that their rows are sums of; every tenth latent counts as dead. float16 is measured at the smaller
size alone: without hardware for it, a CPU takes minutes for one product of the larger size.
"""

import gc
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from result import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.reliability.numerics import (
    OURS,
    PRECISIONS,
    SAELENS,
    SMALL,
    Size,
    activations,
    agreements,
)

LARGE = Size(d_in=576, d_sae=4096, k=64, n_rows=4096)
PRECISIONS_OF = {LARGE: [name for name in PRECISIONS if name != "float16"], SMALL: list(PRECISIONS)}


def main() -> None:
    """Measure every architecture in every precision."""
    measured = []
    for size, precisions in PRECISIONS_OF.items():
        x = activations(size)
        for name, make in (SAELENS | OURS).items():
            torch.manual_seed(0)
            for precision, found in agreements(make(size, x), x, precisions).items():
                row = {"architecture": name, "precision": precision, **asdict(found)}
                measured.append({"d_in": size.d_in, "d_sae": size.d_sae, "n_rows": size.n_rows, **row})
            gc.collect()
    write_result(__file__, {"measured": measured})


if __name__ == "__main__":
    main()

"""Every architecture in bfloat16, float16 and autocast agrees with itself in float64, as SAELens' own do.

The bounds are two to three times what `benchmarks/reliability_numerics.py` measures.
"""

import functools

import pytest

import sae_lens_ext as ext
from tests.reliability.numerics import (
    OURS,
    PRECISIONS,
    RELATIVES,
    SAELENS,
    SMALL,
    Agreement,
    activations,
    agreements,
)

RECONSTRUCTION = {"bfloat16": 0.15, "float16": 0.1, "autocast": 0.15, "float32": 1e-6}
"""Relative error. A pre-activation's rounding (unit round-off 2⁻⁸, 2⁻¹¹ and 2⁻²⁴) is a fraction of itself; but where it decides between two
latents at the border of the k best, one whole latent of eight is another: a few such rows are nearly all of the error."""
LOSS = {"bfloat16": 1e-2, "float16": 2e-3, "autocast": 1.5e-2, "float32": 1e-6}
"""Relative error: means over rows, in which rounding averages out and what is left is the latents that changed; losses of SAELens that are summed
in half precision are rounded to 2⁻⁸ or 2⁻¹¹ of themselves besides."""
OVERLAP = {"bfloat16": 0.95, "float16": 0.98, "autocast": 0.96, "float32": 0.9999}
"""Mean share of a row's active latents that are the same."""
WORSE_THAN_SAELENS = 2.0
"""How much more than the worst of SAELens' own architectures ours may be off, in each precision."""


@functools.cache
def measured(name: str) -> dict[str, Agreement]:
    x = activations(SMALL)
    return agreements((SAELENS | OURS)[name](SMALL, x), x)


def test_every_architecture_is_measured() -> None:
    assert {name.split(" ")[0] for name in OURS} == set(ext.list_architectures())


@pytest.mark.parametrize("name", SAELENS | OURS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions_agree(name: str, precision: str) -> None:
    found = measured(name)[precision]
    assert found.reconstruction <= RECONSTRUCTION[precision]
    assert found.overlap >= OVERLAP[precision]
    assert all(error <= LOSS[precision] for error in found.losses.values()), found.losses


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_ours_are_no_coarser_than_saelens_own(name: str, precision: str) -> None:
    own, theirs = measured(name)[precision], [measured(other)[precision] for other in SAELENS]
    if name in RELATIVES:
        relative = measured(RELATIVES[name])[precision]
        assert own.reconstruction <= WORSE_THAN_SAELENS * relative.reconstruction
    assert own.reconstruction <= WORSE_THAN_SAELENS * max(found.reconstruction for found in theirs)
    worst = max(error for found in theirs for error in found.losses.values())
    assert all(error <= WORSE_THAN_SAELENS * worst for error in own.losses.values()), own.losses

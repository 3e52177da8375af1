"""Statistics of dimensions, read in parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.analysis.collapse.dimensions import DimensionStatistics


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(-1e6, 1e6))
def test_parts_give_what_the_whole_gives(sizes: list[int], mean: float) -> None:
    x = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + mean
    statistics = DimensionStatistics(3)
    for part in x.split(sizes):
        statistics.add(part)
    assert statistics.n == len(x)
    assert statistics.mean.tolist() == pytest.approx(x.mean(dim=0).tolist(), rel=1e-12)
    assert statistics.std.tolist() == pytest.approx(x.std(dim=0, correction=0).tolist(), rel=1e-6, abs=1e-9)


def test_positions_of_sequences_are_rows() -> None:
    x = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[5.0, 5.0], [7.0, 5.0]]])
    statistics = DimensionStatistics(2)
    statistics.add(x)
    assert statistics.mean.tolist() == [4.0, 5.0]
    assert statistics.std.tolist() == [5**0.5, 0.0]
    assert statistics.z_score(x)[0, 0].tolist() == [-3 / 5**0.5, 0.0]

"""How a routed vector is split into shares of its sources, by hand and by a loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.lime.reading.circuits.shares import MeanShares, source_shares


def test_shares_are_projections_on_the_routed_vector() -> None:
    values = torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]]])  # two layers of one head, at one token
    shares, there = source_shares(values, torch.tensor([[[1.0], [4.0]]]))  # contributions (3, 0) and (0, 4)
    assert shares.flatten().tolist() == pytest.approx([9 / 25, 16 / 25])
    assert bool(there.all())


def test_source_that_works_against_the_others_has_a_negative_share() -> None:
    values = torch.tensor([[[[1.0, 0.0]], [[0.25, 0.0]]]])
    shares, _ = source_shares(values, torch.tensor([[[1.0], [-1.0]]]))
    assert shares.flatten().tolist() == pytest.approx([4 / 3, -1 / 3])


@given(
    n_layers=st.integers(1, 4), n_heads=st.integers(1, 3), seed=st.integers(0, 999), scale=st.floats(0.1, 10)
)
def test_shares_sum_to_one_and_do_not_depend_on_the_scale(
    n_layers: int, n_heads: int, seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(5, n_layers, n_heads, 8, generator=generator)
    weights = torch.randn(n_heads, n_layers, n_heads, generator=generator)
    shares, there = source_shares(values, weights)
    assert bool(there.all())
    assert torch.allclose(
        shares.sum(dim=(2, 3)), torch.ones(5, n_heads), atol=1e-4 * float(shares.abs().max())
    )
    scaled, _ = source_shares(values * scale, weights)
    assert torch.allclose(scaled, shares, rtol=1e-3, atol=1e-4 * float(shares.abs().max()))


def test_shares_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, 2, 5, generator=generator)
    weights = torch.randn(2, 3, 2, generator=generator)
    shares, _ = source_shares(values, weights)
    for token in range(4):
        for head in range(2):
            parts = {
                (layer, source): float(weights[head, layer, source]) * values[token, layer, source].double()
                for layer in range(3)
                for source in range(2)
            }
            routed = sum(parts.values(), torch.zeros(5, dtype=torch.float64))
            for (layer, source), part in parts.items():
                expected = float(part @ routed) / float(routed @ routed)
                assert float(shares[token, head, layer, source]) == pytest.approx(
                    expected, rel=1e-4, abs=1e-4
                )


def test_tokens_without_a_routed_vector_are_left_out_of_the_mean() -> None:
    weights = torch.tensor([[[1.0], [1.0]]])
    values = torch.tensor([[[[1.0]], [[3.0]]], [[[1.0]], [[-1.0]]]])  # at the second token they cancel
    shares, there = source_shares(values, weights)
    assert shares[1].abs().sum() == 0
    assert there.tolist() == [[True], [False]]
    mean = MeanShares(weights)
    mean.add(shares, there)
    assert mean.mean().flatten().tolist() == pytest.approx([0.25, 0.75])


def test_head_that_nothing_is_routed_to_has_shares_of_zero() -> None:
    weights = torch.zeros(1, 2, 1)
    mean = MeanShares(weights)
    mean.add(*source_shares(torch.ones(3, 2, 1, 4), weights))
    assert mean.mean().tolist() == weights.tolist()

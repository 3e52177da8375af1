"""How a routed vector is split into shares of its sources, by hand and by a loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.lime.reading.circuits.shares import TextShares, along_routed, shares_of


def test_shares_are_projections_on_the_routed_vector() -> None:
    values = torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]]])  # two layers of one head, at one token
    shares, there = split(values, torch.tensor([[[1.0], [4.0]]]))  # contributions (3, 0) and (0, 4)
    assert shares.flatten().tolist() == pytest.approx([9 / 25, 16 / 25])
    assert bool(there.all())


def test_source_that_works_against_the_others_has_a_negative_share() -> None:
    values = torch.tensor([[[[1.0, 0.0]], [[0.25, 0.0]]]])
    shares, _ = split(values, torch.tensor([[[1.0], [-1.0]]]))
    assert shares.flatten().tolist() == pytest.approx([4 / 3, -1 / 3])


def split(values: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the tokens' own shares, and where there are any."""
    along, square = along_routed(values, weights)
    return shares_of(along, square), square > 0


@given(
    n_layers=st.integers(1, 4), n_heads=st.integers(1, 3), seed=st.integers(0, 999), scale=st.floats(0.1, 10)
)
def test_shares_sum_to_one_and_do_not_depend_on_the_scale(
    n_layers: int, n_heads: int, seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(5, n_layers, n_heads, 8, generator=generator)
    weights = torch.randn(n_heads, n_layers, n_heads, generator=generator)
    shares, there = split(values, weights)
    assert bool(there.all())
    assert torch.allclose(
        shares.sum(dim=(2, 3)), torch.ones(5, n_heads), atol=1e-4 * float(shares.abs().max())
    )
    scaled, _ = split(values * scale, weights)
    assert torch.allclose(scaled, shares, rtol=1e-3, atol=1e-4 * float(shares.abs().max()))


def test_shares_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, 2, 5, generator=generator)
    weights = torch.randn(2, 3, 2, generator=generator)
    shares, _ = split(values, weights)
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


def test_tokens_without_a_routed_vector_add_nothing_to_the_text() -> None:
    weights = torch.tensor([[[1.0], [1.0]]])
    values = torch.tensor([[[[1.0]], [[3.0]]], [[[1.0]], [[-1.0]]]])  # at the second token they cancel
    shares, there = split(values, weights)
    assert shares[1].abs().sum() == 0
    assert there.tolist() == [[True], [False]]
    of_text = TextShares(weights)
    of_text.add(*along_routed(values[:1], weights))
    of_text.add(*along_routed(values[1:], weights))
    assert of_text.shares().flatten().tolist() == pytest.approx([(4 + 0) / 16, (12 + 0) / 16])


def test_a_token_at_which_sources_nearly_cancel_does_not_own_the_text() -> None:
    weights = torch.ones(1, 2, 1)
    values = torch.randn(1000, 2, 1, 8, generator=torch.Generator().manual_seed(0))
    of_all, without = TextShares(weights), TextShares(weights)
    without.add(*along_routed(values, weights))
    values[0, 1] = -0.999 * values[0, 0]
    of_all.add(*along_routed(values, weights))
    assert abs(float(split(values, weights)[0][0, 0, 0, 0])) > 500
    torch.testing.assert_close(of_all.shares(), without.shares(), atol=0.01, rtol=0)


def test_head_that_nothing_is_routed_to_has_shares_of_zero() -> None:
    weights = torch.zeros(1, 2, 1)
    of_text = TextShares(weights)
    of_text.add(*along_routed(torch.ones(3, 2, 1, 4), weights))
    assert of_text.shares().tolist() == weights.tolist()

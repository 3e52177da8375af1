"""mAND against a loop, at its corners, and its gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.ops import mand, split_pre_latents


def mand_by_loop(base: torch.Tensor, extension: torch.Tensor) -> torch.Tensor:
    """Eq. 3 of arXiv 2505.22255, one number at a time."""
    heads, m = base.shape
    n = extension.shape[1]
    scores = torch.zeros(heads * m * n, dtype=base.dtype)
    for head in range(heads):
        for i in range(m):
            for j in range(n):
                u, v = base[head, i].item(), extension[head, j].item()
                scores[(head * m + i) * n + j] = math.sqrt(u * v) if u > 0 and v > 0 else 0.0
    return scores


@given(heads=st.integers(1, 4), m=st.integers(1, 4), n=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_mand_equals_the_loop(heads: int, m: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(heads, m, generator=generator, dtype=torch.float64)
    extension = torch.randn(heads, n, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mand(base, extension), mand_by_loop(base, extension))


def test_mand_by_hand() -> None:
    base = torch.tensor([[4.0, -1.0], [0.0, 9.0]])
    extension = torch.tensor([[1.0, 25.0, -3.0], [4.0, 0.0, 16.0]])
    expected = [2.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 6.0, 0.0, 12.0]
    assert mand(base, extension).tolist() == expected


def test_mand_is_exactly_zero_where_a_parent_is_off_and_only_there() -> None:
    base, extension = torch.randn(50, 3, 4), torch.randn(50, 3, 5)
    both_on = ((base > 0).unsqueeze(-1) & (extension > 0).unsqueeze(-2)).flatten(1)
    assert torch.equal(mand(base, extension) > 0, both_on)
    assert torch.equal(mand(base, extension) == 0, ~both_on)


@pytest.mark.parametrize("off", [0.0, -1.0, -0.0])
def test_mand_gradient_is_zero_not_nan_where_a_parent_is_off(off: float) -> None:
    base = torch.tensor([[off, 2.0]], requires_grad=True)
    extension = torch.tensor([[3.0, off]], requires_grad=True)
    mand(base, extension).sum().backward()
    assert base.grad is not None and extension.grad is not None
    # Only the pair (2.0, 3.0) is on: d sqrt(uv)/du = sqrt(v/u)/2.
    assert base.grad[0, 0] == 0 and extension.grad[0, 1] == 0
    assert base.grad[0, 1].item() == pytest.approx(math.sqrt(3 / 2) / 2)
    assert extension.grad[0, 0].item() == pytest.approx(math.sqrt(2 / 3) / 2)


def test_mand_gradcheck() -> None:
    base = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    extension = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mand, (base, extension))


def test_mand_does_not_underflow_in_half_precision() -> None:
    tiny = torch.full((1, 1), 1e-4, dtype=torch.float16)  # the product, 1e-8, is 0 in float16
    assert mand(tiny, tiny).item() == pytest.approx(1e-4, rel=1e-2)


@given(scale=st.floats(0.01, 100.0))
def test_mand_is_homogeneous_of_degree_one(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    extension = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mand(scale * base, scale * extension), scale * mand(base, extension))


def test_split_pre_latents_is_head_major_base_first() -> None:
    base, extension = split_pre_latents(torch.arange(10), base_dim=2, extension_dim=3)
    assert base.tolist() == [[0, 1], [5, 6]]
    assert extension.tolist() == [[2, 3, 4], [7, 8, 9]]

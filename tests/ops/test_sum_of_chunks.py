"""A loss added up chunk by chunk, against the loss of all at once."""

import pytest
import torch

from sae_lens_ext.ops.sum_of_chunks import sum_of_chunks


def loss_of(tokens: slice, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x[tokens] @ w).square().sum()


@pytest.mark.parametrize("step", [1, 3, 7, 10])
@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_sum_and_gradients_are_those_of_all_at_once(step: int, needed: tuple[bool, bool]) -> None:
    x, w = torch.randn(7, 4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    whole = [t.clone().requires_grad_(need) for t, need in zip((x, w), needed, strict=True)]
    parts = [t.clone().requires_grad_(need) for t, need in zip((x, w), needed, strict=True)]
    expected = loss_of(slice(None), *whole)
    found = sum_of_chunks(loss_of, [slice(i, i + step) for i in range(0, 7, step)], *parts)
    torch.testing.assert_close(found, expected)
    (2 * expected).backward()
    (2 * found).backward()
    for a, b in zip(parts, whole, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_without_gradients_nothing_is_differentiated() -> None:
    x, w = torch.randn(7, 4, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    with torch.no_grad():
        assert not sum_of_chunks(loss_of, [slice(0, 7)], x, w).requires_grad


def test_low_precision_is_added_up_in_float32() -> None:
    x, w = torch.ones(300, 1, dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.bfloat16)
    found = sum_of_chunks(loss_of, [slice(i, i + 1) for i in range(300)], x, w)
    assert found.dtype == torch.float32 and found == 300

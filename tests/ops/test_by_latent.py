"""Sums over the uses of each latent, against a matrix product and against a loop."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.ops import latent_sums, latent_sums_naive


@pytest.fixture(params=[False, True], ids=["", "deterministic algorithms"])
def deterministic(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(before)


def problem(
    tokens: int, k: int, n_latents: int, d: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, latents (repeated within a token, too) and rows."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(tokens, k, generator=generator, dtype=dtype)
    latents = torch.randint(n_latents, (tokens, k), generator=generator)
    return weights, latents, torch.randn(tokens, d, generator=generator, dtype=dtype)


def sums_by_loop(
    weights: torch.Tensor,
    latents: torch.Tensor,
    rows: torch.Tensor,
    n_latents: int,
    row_of_use: torch.Tensor | None = None,
) -> torch.Tensor:
    """One use at a time."""
    sums = torch.zeros(n_latents, rows.shape[1], dtype=rows.dtype)
    for token in range(latents.shape[0]):
        for rank in range(latents.shape[1]):
            row = token if row_of_use is None else int(row_of_use[token, rank])
            sums[latents[token, rank]] += weights[token, rank] * rows[row]
    return sums


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(0, 6),
    k=st.integers(1, 4),
    n_latents=st.integers(1, 8),
    d=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
def test_both_forms_equal_the_loop(tokens: int, k: int, n_latents: int, d: int, seed: int) -> None:
    inputs = problem(tokens, k, n_latents, d, seed)
    expected = sums_by_loop(*inputs, n_latents)
    torch.testing.assert_close(latent_sums(*inputs, n_latents), expected)
    torch.testing.assert_close(latent_sums_naive(*inputs, n_latents), expected)


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(0, 6),
    k=st.integers(1, 4),
    n_rows=st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
def test_row_of_use_says_which_row_each_use_takes(tokens: int, k: int, n_rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights, latents, _ = problem(tokens, k, 5, seed=seed)
    rows = torch.randn(n_rows, 3, generator=generator, dtype=torch.float64)
    row_of_use = torch.randint(n_rows, (tokens, k), generator=generator)
    torch.testing.assert_close(
        latent_sums(weights, latents, rows, 5, row_of_use),
        sums_by_loop(weights, latents, rows, 5, row_of_use),
    )


@pytest.mark.parametrize("sums", [latent_sums, latent_sums_naive])
def test_sums_by_hand(sums) -> None:
    weights = torch.tensor([[2.0, 1.0], [3.0, -1.0]])
    latents = torch.tensor([[0, 3], [3, 1]])
    rows = torch.tensor([[1.0, 10.0], [5.0, 7.0]])
    expected = [[2.0, 20.0], [-5.0, -7.0], [0.0, 0.0], [1.0 + 15.0, 10.0 + 21.0]]
    assert sums(weights, latents, rows, 4).tolist() == expected


@pytest.mark.parametrize("sums", [latent_sums, latent_sums_naive])
def test_a_latent_named_twice_by_a_token_counts_twice(sums) -> None:
    once = sums(torch.tensor([[5.0]]), torch.tensor([[1]]), torch.tensor([[3.0]]), 2)
    twice = sums(torch.tensor([[2.0, 3.0]]), torch.tensor([[1, 1]]), torch.tensor([[3.0]]), 2)
    assert once.tolist() == twice.tolist() == [[0.0], [15.0]]


def test_latents_that_no_token_uses_have_sums_of_exactly_zero() -> None:
    weights, latents, rows = problem(50, 3, 10, dtype=torch.float32)
    sums = latent_sums(weights, 2 * latents + 1, rows, 25)  # the odd ones up to 19
    used = torch.zeros(25, dtype=torch.bool)
    used[(2 * latents + 1).flatten()] = True
    assert used.sum() == 10
    assert not sums[~used].any() and sums[used].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rows_are_summed_in_float32(dtype: torch.dtype) -> None:
    """4097 ones: a sum in bfloat16 would stop at 256, one in float16 at 2048."""
    ones = torch.ones(4097, 1, dtype=dtype)
    sums = latent_sums(ones, torch.zeros(4097, 1, dtype=torch.int64), ones, 2)
    assert sums.dtype == torch.float32
    assert sums.tolist() == [[4097.0], [0.0]]


def test_half_precision_products_are_not_rounded() -> None:
    third = torch.tensor([[1 / 3]], dtype=torch.bfloat16)
    sums = latent_sums(third, torch.tensor([[0]]), third, 1)
    assert sums.item() == third.float().item() ** 2 != (third * third).item()


def test_double_precision_stays_double() -> None:
    weights, latents, rows = problem(5, 2, 4)
    assert latent_sums(weights, latents, rows, 4).dtype == torch.float64
    assert latent_sums(weights.float(), latents, rows, 4).dtype == torch.float64


def test_float32_sums_over_many_tokens_are_within_1e_5_of_float64() -> None:
    inputs = problem(5000, 2, 3, d=4)
    exact = latent_sums_naive(*inputs, 3)
    weights, latents, rows = inputs
    sums = latent_sums(weights.float(), latents, rows.float(), 3)
    assert (sums.double() - exact).norm() <= 1e-5 * exact.norm()


def test_no_tokens_give_zeros() -> None:
    sums = latent_sums(*problem(0, 3, 7), 7)
    assert sums.shape == (7, 3) and not sums.any()


def test_inputs_need_not_be_contiguous() -> None:
    weights, latents, rows = problem(6, 4, 5, d=3)
    strided = [tensor.T.contiguous().T for tensor in (weights, latents, rows)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    torch.testing.assert_close(latent_sums(*strided, 5), sums_by_loop(weights, latents, rows, 5))


@pytest.mark.usefixtures("deterministic")
def test_two_runs_are_equal_to_the_last_bit() -> None:
    inputs = problem(3000, 8, 20, d=16, dtype=torch.float32)
    assert torch.equal(latent_sums(*inputs, 20), latent_sums(*inputs, 20))

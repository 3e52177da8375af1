"""Decoding from k latents a token, against the matrix product and against a loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.ops import sparse_decode, sparse_decode_naive
from tests.ops.largest_tensor import LargestTensor

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def problem(
    tokens: int,
    k: int,
    n_latents: int = 7,
    d: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    """Values, distinct indices and decoder."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tokens, k, generator=generator, dtype=dtype)
    indices = torch.stack(
        [torch.randperm(n_latents, generator=generator)[:k] for _ in range(tokens)] or [torch.zeros(k).long()]
    )[:tokens]
    return values, indices, torch.randn(n_latents, d, generator=generator, dtype=dtype)


def decode_by_loop(values: torch.Tensor, indices: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
    rows = []
    for token in range(len(values)):
        row = torch.zeros(decoder.shape[1], dtype=decoder.dtype)
        for rank in range(values.shape[1]):
            row = row + values[token, rank] * decoder[indices[token, rank]]
        rows.append(row)
    return torch.stack(rows) if rows else decoder[:0]


def output_and_gradients(decode, inputs: Inputs) -> list[torch.Tensor]:
    values, indices, decoder = inputs
    values, decoder = values.detach().requires_grad_(), decoder.detach().requires_grad_()
    out = decode(values, indices, decoder)
    weights = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), (values, decoder))]


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 5),
    k=st.integers(1, 6),
    more=st.integers(0, 5),
    d=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_both_forms_equal_the_loop_in_value_and_gradients(
    tokens: int, k: int, more: int, d: int, seed: int
) -> None:
    inputs = problem(tokens, k, n_latents=k + more, d=d, seed=seed)
    expected = output_and_gradients(decode_by_loop, inputs)
    for decode in (sparse_decode_naive, sparse_decode):
        for actual, wanted in zip(output_and_gradients(decode, inputs), expected, strict=True):
            torch.testing.assert_close(actual, wanted)


def test_decode_by_hand() -> None:
    values = torch.tensor([[2.0, 1.0], [3.0, 0.0]], requires_grad=True)
    indices = torch.tensor([[2, 0], [1, 2]])
    decoder = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 7.0]], requires_grad=True)
    out = sparse_decode(values, indices, decoder)
    assert out.tolist() == [[11.0, 14.0], [0.0, 3.0]]
    out.backward(torch.tensor([[1.0, 0.0], [0.0, 10.0]]))
    assert values.grad is not None and values.grad.tolist() == [[5.0, 1.0], [10.0, 70.0]]
    assert decoder.grad is not None and decoder.grad.tolist() == [[1.0, 0.0], [0.0, 30.0], [2.0, 0.0]]


def test_gradcheck() -> None:
    values, indices, decoder = problem(4, 3)
    assert torch.autograd.gradcheck(
        lambda z, e: sparse_decode(z, indices, e), (values.requires_grad_(), decoder.requires_grad_())
    )


def test_a_latent_named_twice_counts_twice() -> None:
    values = torch.tensor([[2.0, 3.0]], requires_grad=True)
    decoder = torch.tensor([[1.0], [4.0]], requires_grad=True)
    out = sparse_decode(values, torch.tensor([[1, 1]]), decoder)
    assert out.tolist() == [[20.0]]
    out.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [[4.0, 4.0]]
    assert decoder.grad is not None and decoder.grad.tolist() == [[0.0], [5.0]]


def test_float32_gradients_are_within_1e_5_of_float64() -> None:
    values, indices, decoder = problem(300, 8, n_latents=64, d=32)
    exact = output_and_gradients(sparse_decode_naive, (values, indices, decoder))
    single = output_and_gradients(sparse_decode, (values.float(), indices, decoder.float()))
    for actual, wanted in zip(single, exact, strict=True):
        assert actual.dtype == torch.float32
        assert (actual.double() - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_agrees_roughly(dtype: torch.dtype) -> None:
    values, indices, decoder = problem(50, 4, n_latents=16, d=8)
    exact = output_and_gradients(sparse_decode_naive, (values, indices, decoder))
    half = output_and_gradients(sparse_decode, (values.to(dtype), indices, decoder.to(dtype)))
    for actual, wanted in zip(half, exact, strict=True):
        assert actual.dtype == dtype
        assert (actual.double() - wanted).norm() <= 2e-2 * wanted.norm()


def test_the_half_precision_decoders_gradient_is_summed_in_float32() -> None:
    """4096 tokens give 1 each; a sum in bfloat16 would stop at 256."""
    decoder = torch.ones(2, 1, dtype=torch.bfloat16, requires_grad=True)
    ones = torch.ones(4096, 1, dtype=torch.bfloat16)
    sparse_decode(ones, torch.zeros(4096, 1, dtype=torch.int64), decoder).sum().backward()
    assert decoder.grad is not None and decoder.grad.tolist() == [[4096.0], [0.0]]


def test_values_are_taken_in_the_decoders_precision() -> None:
    values, indices, decoder = problem(3, 2)
    values.requires_grad_()
    out = sparse_decode(values, indices, decoder.float())
    assert out.dtype == torch.float32
    out.sum().backward()
    assert values.grad is not None and values.grad.dtype == torch.float64


@pytest.mark.parametrize("needed", ["values", "decoder", "neither"])
def test_gradients_reach_only_what_asks_for_them(needed: str) -> None:
    inputs = problem(4, 3)
    _, d_values, d_decoder = output_and_gradients(sparse_decode_naive, inputs)
    values, indices, decoder = inputs
    values.requires_grad_(needed == "values")
    decoder.requires_grad_(needed == "decoder")
    out = sparse_decode(values, indices, decoder)
    assert out.requires_grad == (needed != "neither")
    if needed == "neither":
        return
    out.backward(torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out))
    if needed == "values":
        torch.testing.assert_close(values.grad, d_values)
        assert decoder.grad is None
    else:
        torch.testing.assert_close(decoder.grad, d_decoder)
        assert values.grad is None


def test_no_tokens_decode_to_nothing_with_zero_gradients() -> None:
    out, d_values, d_decoder = output_and_gradients(sparse_decode, problem(0, 2))
    assert out.shape == (0, 3) and d_values.shape == (0, 2)
    assert d_decoder.shape == (7, 3) and not d_decoder.any()


def test_one_latent_a_token_is_its_row_times_its_value() -> None:
    values, indices, decoder = problem(6, 1)
    assert torch.equal(sparse_decode(values, indices, decoder), values * decoder[indices[:, 0]])


def test_inputs_need_not_be_contiguous() -> None:
    inputs = problem(6, 4)
    expected = output_and_gradients(sparse_decode_naive, inputs)
    values, indices, decoder = (tensor.T.contiguous().T for tensor in inputs)
    assert not (values.is_contiguous() or indices.is_contiguous() or decoder.is_contiguous())
    for actual, wanted in zip(
        output_and_gradients(sparse_decode, (values, indices, decoder)), expected, strict=True
    ):
        torch.testing.assert_close(actual, wanted)


def test_a_gradient_that_is_one_number_for_all_is_taken() -> None:
    """`sum().backward()` hands down an expanded tensor without memory of its own."""
    values, indices, decoder = problem(6, 4)
    decoder.requires_grad_()
    sparse_decode(values, indices, decoder).sum().backward()
    expected = torch.autograd.grad(sparse_decode_naive(values, indices, decoder).sum(), decoder)[0]
    torch.testing.assert_close(decoder.grad, expected)


def test_autocast_agrees_roughly_and_keeps_the_parameters_precision() -> None:
    inputs = problem(50, 4, n_latents=16, d=8, dtype=torch.float32)
    exact = output_and_gradients(sparse_decode_naive, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = output_and_gradients(sparse_decode, inputs)
    assert {gradient.dtype for gradient in rough[1:]} == {torch.float32}
    for actual, wanted in zip(rough, exact, strict=True):
        assert (actual.float() - wanted).norm() <= 2e-2 * wanted.norm()


def test_nothing_as_large_as_the_dense_latents_is_made() -> None:
    inputs = problem(64, 4, n_latents=1000, d=8, dtype=torch.float32)
    with LargestTensor() as largest:
        output_and_gradients(sparse_decode, inputs)
    assert largest.numel <= 1000 * 8, largest  # the decoder's gradient
    with LargestTensor() as largest:
        output_and_gradients(sparse_decode_naive, inputs)
    assert largest.numel >= 64 * 1000, largest

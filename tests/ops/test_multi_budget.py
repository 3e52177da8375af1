"""The multi-budget loss against a loop over budgets, and the fast form against the readable one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.ops import (
    chunks,
    multi_budget,
    multi_budget_loss,
    multi_budget_loss_naive,
    prefix_reconstructions,
)


def problem(
    tokens: int, k: int, d: int = 5, latents: int = 11, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    """Ranked values, indices, decoder, bias and target; the last values of a token are 0."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tokens, k, generator=generator, dtype=dtype).relu().sort(descending=True).values
    indices = torch.stack([torch.randperm(latents, generator=generator)[:k] for _ in range(tokens)])
    decoder = torch.randn(latents, d, generator=generator, dtype=dtype)
    bias = torch.randn(d, generator=generator, dtype=dtype)
    target = torch.randn(tokens, d, generator=generator, dtype=dtype)
    return [values, indices, decoder, bias, target]


def loss_by_loop(
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    budgets: tuple[int, ...],
) -> tuple[torch.Tensor, None]:
    """The formula of arXiv 2505.24473, one token, one budget and one latent at a time."""
    total = torch.zeros((), dtype=values.dtype)
    for token in range(len(values)):
        for budget in budgets:
            reconstruction = bias.clone()
            for rank in range(budget):
                reconstruction = reconstruction + values[token, rank] * decoder[indices[token, rank]]
            total = total + (target[token] - reconstruction).pow(2).sum()
    return total / (len(values) * len(budgets)), None


def gradients(loss_fn, inputs: list[torch.Tensor], budgets: tuple[int, ...]) -> list[torch.Tensor]:
    values, indices, *rest = inputs
    leaves = [t.clone().requires_grad_() for t in (values, *rest)]
    loss, _ = loss_fn(leaves[0], indices, *leaves[1:], budgets)
    return [loss.detach(), *torch.autograd.grad(3 * loss, leaves)]


@given(
    tokens=st.integers(1, 5),
    k=st.integers(1, 6),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_both_forms_equal_the_loop_in_value_and_gradients(
    tokens: int, k: int, seed: int, data: st.DataObject
) -> None:
    budgets = tuple(sorted(data.draw(st.sets(st.integers(1, k), min_size=1))))
    inputs = problem(tokens, k, seed=seed)
    expected = gradients(loss_by_loop, inputs, budgets)
    for loss_fn in (multi_budget_loss_naive, multi_budget_loss):
        for actual, wanted in zip(gradients(loss_fn, inputs, budgets), expected, strict=True):
            torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("few", [0.0, 1.0])
@pytest.mark.parametrize("budgets", [(4,), (1, 3, 4), (1, 2, 3, 4)])
def test_chunks_do_not_show(few: float, budgets: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_budget, "FEW", few)
    monkeypatch.setitem(chunks.FLOATS_PER_CHUNK, "cpu", 120)
    inputs = problem(17, 4)
    for actual, wanted in zip(
        gradients(multi_budget_loss, inputs, budgets),
        gradients(multi_budget_loss_naive, inputs, budgets),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted)


def test_float32_gradients_are_within_1e_5_of_float64() -> None:
    inputs = problem(200, 8, d=32, latents=64)
    single = [t.float() if t.is_floating_point() else t for t in inputs]
    exact = gradients(multi_budget_loss_naive, inputs, tuple(range(1, 9)))
    for actual, wanted in zip(gradients(multi_budget_loss, single, tuple(range(1, 9))), exact, strict=True):
        assert (actual.double() - wanted).norm() <= 1e-5 * wanted.norm()


def test_gradients_equal_the_closed_form_of_one_token() -> None:
    """∂L/∂z_r = e_r · S_r with S_r = Σ_{j ≥ r} g_j and g_j = (2/|J|)(x̂_j − x), worked for K = 2, d = 1."""
    values = torch.tensor([[3.0, 1.0]])
    indices = torch.tensor([[1, 0]])
    decoder = torch.tensor([[2.0], [1.0]])
    bias, target = torch.tensor([0.5]), torch.tensor([[4.0]])
    # x̂_1 = 0.5 + 3·1 = 3.5, x̂_2 = 3.5 + 1·2 = 5.5; errors −0.5 and 1.5; loss (0.25 + 2.25)/2 = 1.25.
    # g = (−0.5, 1.5); S = (1.0, 1.5); ∂z = (1·1.0, 2·1.5); ∂e_1 = 3·1.0, ∂e_0 = 1·1.5; ∂b = 1.0; ∂x = −1.0.
    loss, d_values, d_decoder, d_bias, d_target = gradients(
        multi_budget_loss, [values, indices, decoder, bias, target], (1, 2)
    )
    assert loss.item() == 1.25
    assert (d_values / 3).tolist() == [[1.0, 3.0]]
    assert (d_decoder / 3).tolist() == [[1.5], [3.0]]
    assert (d_bias / 3).tolist() == [1.0] and (d_target / 3).tolist() == [[-1.0]]


def test_order_matters() -> None:
    values, indices, *rest = problem(3, 4)
    swapped, _ = multi_budget_loss(values.flip(1), indices.flip(1), *rest, (1, 2))
    assert not torch.allclose(multi_budget_loss(values, indices, *rest, (1, 2))[0], swapped)


def test_prefix_reconstructions_count_the_bias_once_in_every_level() -> None:
    values, indices, decoder, bias, _ = problem(2, 3)
    levels = prefix_reconstructions(torch.zeros_like(values), indices, decoder, bias)
    assert torch.equal(levels, bias.expand(2, 3, -1))


def test_no_tokens_cost_nothing() -> None:
    inputs = [t[:0] if i in (0, 1, 4) else t for i, t in enumerate(problem(2, 3))]
    loss, *grads = gradients(multi_budget_loss, inputs, (1, 3))
    assert loss.item() == 0 and all(torch.isfinite(g).all() for g in grads)

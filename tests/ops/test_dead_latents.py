"""The dead-latent loss in chunks and with its gradients at hand, against the formula under autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.ops import chunks, dead_latent_loss, dead_latent_loss_naive
from tests.ops.largest_tensor import LargestTensor

LEAVES = ("W", "b", "rows")


def linear(x: torch.Tensor, W: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pre-activations, of either sign, as TopK's dead-latent loss takes them."""
    return x @ W + b


def rectified(x: torch.Tensor, W: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Activations that may be off, as KronSAE's scores may."""
    return linear(x, W, b).relu()


def problem(
    tokens: int, n_dead: int, d: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "x": draw(tokens, d),
        "error": draw(tokens, d),
        "W": draw(d, n_dead),
        "b": draw(n_dead),
        "rows": draw(n_dead, d),
        "rank_scale": (0.5 + torch.rand(n_dead, generator=generator, dtype=torch.float64)).to(dtype),
    }


def loss_and_gradients(
    loss_fn, inputs: dict[str, torch.Tensor], k: int, activations=linear, *, scaled: bool = True
) -> dict[str, torch.Tensor]:
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in LEAVES}
    loss = loss_fn(
        activations,
        inputs["x"],
        inputs["error"],
        (leaves["W"], leaves["b"]),
        leaves["rows"],
        k,
        inputs["rank_scale"] if scaled else None,
    )
    gradients = torch.autograd.grad(3 * loss, list(leaves.values()))
    return {"loss": loss.detach(), **dict(zip(leaves, gradients, strict=True))}


def loss_by_loop(
    activations, x: torch.Tensor, error: torch.Tensor, parameters, rows: torch.Tensor, k: int, scale
) -> torch.Tensor:
    """The formula of arXiv 2406.04093, A.2, one token and one latent at a time."""
    total = torch.zeros((), dtype=x.dtype)
    for token in range(len(x)):
        acts = activations(x[token], *parameters)
        rank = acts if scale is None else acts * scale
        kept = sorted(range(len(rows)), key=lambda f, rank=rank: -rank[f].item())[:k]
        rebuilt = torch.zeros_like(x[token])
        for f in kept:
            rebuilt = rebuilt + acts[f] * rows[f]
        total = total + (error[token] - rebuilt).pow(2).sum()
    return total / len(x)


def assert_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], msg=f"{name} differs")


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 5),
    n_dead=st.integers(1, 6),
    rectify=st.booleans(),
    scaled=st.booleans(),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_both_forms_equal_the_loop_in_value_and_gradients(
    tokens: int, n_dead: int, rectify: bool, scaled: bool, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n_dead))
    activations = rectified if rectify else linear
    inputs = problem(tokens, n_dead, seed=seed)
    expected = loss_and_gradients(loss_by_loop, inputs, k, activations, scaled=scaled)
    for loss_fn in (dead_latent_loss_naive, dead_latent_loss):
        assert_equal(loss_and_gradients(loss_fn, inputs, k, activations, scaled=scaled), expected)


@pytest.mark.parametrize("floats", [1, 60, 200])
@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("scaled", [False, True])
def test_chunks_do_not_show(scaled: bool, k: int, floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """17 tokens, of which the last chunk has fewer: the mean is over tokens, not over chunks."""
    inputs = problem(17, 6)
    expected = loss_and_gradients(dead_latent_loss_naive, inputs, k, scaled=scaled)
    monkeypatch.setitem(chunks.FLOATS_PER_CHUNK, "cpu", floats)
    assert_equal(loss_and_gradients(dead_latent_loss, inputs, k, scaled=scaled), expected)


@pytest.mark.parametrize("loss_fn", [dead_latent_loss, dead_latent_loss_naive])
def test_loss_by_hand(loss_fn) -> None:
    """Two dead latents with activations 1 and 3 and rows 1 and 2 rebuild an error of 4."""
    inputs = {
        "x": torch.tensor([[1.0]]),
        "error": torch.tensor([[4.0]]),
        "W": torch.tensor([[1.0, 3.0]]),
        "b": torch.zeros(2),
        "rows": torch.tensor([[1.0], [2.0]]),
        "rank_scale": torch.tensor([4.0, 1.0]),
    }
    # k = 1 keeps the second: (3·2 − 4)² = 4; the gradients are 2·(6 − 4)·(2 for the activation, 3 for the row).
    second = loss_and_gradients(loss_fn, inputs, 1, scaled=False)
    assert second["loss"] == 4
    assert (second["b"] / 3).tolist() == [0.0, 8.0] and (second["rows"] / 3).tolist() == [[0.0], [12.0]]
    # Ranked by 4·1 and 1·3 it keeps the first: (1 − 4)² = 9; the scale decides and does not multiply.
    assert loss_and_gradients(loss_fn, inputs, 1)["loss"] == 9
    # Both: (1 + 6 − 4)² = 9.
    assert loss_and_gradients(loss_fn, inputs, 2)["loss"] == 9


def test_gradcheck() -> None:
    inputs = problem(4, 5)
    leaves = tuple(inputs[name].requires_grad_() for name in LEAVES)
    assert torch.autograd.gradcheck(
        lambda W, b, rows: dead_latent_loss(linear, inputs["x"], inputs["error"], (W, b), rows, 3), leaves
    )


def test_gradients_go_on_through_what_the_parameters_were_made_of() -> None:
    """The step hands over picked columns and normalised rows, not leaves."""
    inputs = problem(7, 8)
    dead = torch.tensor([1, 4, 6])
    found = []
    for loss_fn in (dead_latent_loss, dead_latent_loss_naive):
        W, rows = (inputs[name].clone().requires_grad_() for name in ("W", "rows"))
        unit = rows / rows.norm(dim=-1, keepdim=True)
        loss = loss_fn(linear, inputs["x"], inputs["error"], (W[:, dead], inputs["b"][dead]), unit[dead], 2)
        found.append(torch.autograd.grad(loss, (W, rows)))
    for actual, wanted in zip(*found, strict=True):
        torch.testing.assert_close(actual, wanted)
    assert not found[0][0][:, [0, 2, 3, 5, 7]].any()


def test_the_input_gets_a_gradient_and_the_error_none() -> None:
    inputs = problem(4, 5)
    found = []
    for loss_of in (dead_latent_loss_naive, dead_latent_loss):
        x, error = (inputs[name].clone().requires_grad_() for name in ("x", "error"))
        loss_of(linear, x, error, (inputs["W"], inputs["b"]), inputs["rows"], 3).backward()
        assert error.grad is None
        found.append(x.grad)
    torch.testing.assert_close(found[1], found[0])


def test_a_parameter_that_the_activations_ignore_gets_zeros() -> None:
    inputs = problem(4, 5)
    unused = torch.randn(3, dtype=torch.float64, requires_grad=True)
    loss = dead_latent_loss(
        lambda x, W, b, _: linear(x, W, b),
        inputs["x"],
        inputs["error"],
        (inputs["W"], inputs["b"], unused),
        inputs["rows"],
        2,
    )
    loss.backward()
    assert unused.grad is not None and not unused.grad.any()


def test_dead_latents_that_are_all_off_leave_the_error_and_have_no_gradient() -> None:
    inputs = problem(9, 5)
    inputs["b"] -= 1e3
    found = loss_and_gradients(dead_latent_loss, inputs, 3, rectified)
    torch.testing.assert_close(found["loss"], inputs["error"].pow(2).sum(dim=-1).mean())
    assert not any(found[name].any() for name in LEAVES)


def test_float32_gradients_are_within_1e_5_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = problem(300, 40, d=32)
    single = {name: tensor.float() for name, tensor in inputs.items()}
    exact = loss_and_gradients(dead_latent_loss_naive, inputs, 16)
    monkeypatch.setitem(chunks.FLOATS_PER_CHUNK, "cpu", 4 * 40 * 7)
    found = loss_and_gradients(dead_latent_loss, single, 16)
    for name, wanted in exact.items():
        assert found[name].dtype == torch.float32
        assert (found[name].double() - wanted).norm() <= 1e-5 * wanted.norm(), name


def test_half_precision_chunks_are_added_up_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """4096 tokens, one a chunk, each with an error of 1: the sum of the shares is 1 in the end."""
    ones = torch.ones(4096, 1, dtype=torch.bfloat16)
    rows = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    W = torch.ones(1, 1, dtype=torch.bfloat16)
    monkeypatch.setitem(chunks.FLOATS_PER_CHUNK, "cpu", 1)
    loss = dead_latent_loss(linear, ones, ones, (W, W[0] - 1), rows, 1)
    loss.backward()
    assert loss.dtype == torch.float32 and loss == 1
    assert rows.grad is not None and rows.grad.dtype == torch.bfloat16 and rows.grad.item() == -2


def test_half_precision_agrees_roughly() -> None:
    inputs = problem(50, 12)
    half = {name: tensor.bfloat16() for name, tensor in inputs.items()}
    exact, rough = (loss_and_gradients(dead_latent_loss, i, 12) for i in (inputs, half))
    for name, wanted in exact.items():
        assert (rough[name].double() - wanted).norm() <= 5e-2 * wanted.norm(), name


def test_autocast_agrees_roughly_and_keeps_the_parameters_precision() -> None:
    inputs = problem(50, 12, dtype=torch.float32)
    exact = loss_and_gradients(dead_latent_loss, inputs, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss_and_gradients(dead_latent_loss, inputs, 12)
    for name, wanted in exact.items():
        assert rough[name].dtype == torch.float32
        assert (rough[name] - wanted).norm() <= 5e-2 * wanted.norm(), name


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_the_loss_alone_may_be_asked_for(off) -> None:
    inputs = problem(6, 5)
    expected = loss_and_gradients(dead_latent_loss_naive, inputs, 3, scaled=False)["loss"]
    parameters = (inputs["W"].requires_grad_(), inputs["b"])
    with off():
        loss = dead_latent_loss(linear, inputs["x"], inputs["error"], parameters, inputs["rows"], 3)
    assert not loss.requires_grad
    torch.testing.assert_close(loss.clone(), expected)


def test_no_tokens_cost_nothing() -> None:
    found = loss_and_gradients(dead_latent_loss, problem(0, 5), 3)
    assert found["loss"] == 0 and not any(found[name].any() for name in LEAVES)


def test_no_more_than_a_chunk_of_dead_latents_is_held() -> None:
    inputs = problem(64, 100, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patched, LargestTensor() as largest:
        patched.setitem(chunks.FLOATS_PER_CHUNK, "cpu", 4 * 100 * 4)
        loss_and_gradients(dead_latent_loss, inputs, 5)
    assert largest.numel <= 5 * 100, largest  # W and the rows with it
    with LargestTensor() as largest:
        loss_and_gradients(dead_latent_loss_naive, inputs, 5)
    assert largest.numel >= 64 * 100, largest

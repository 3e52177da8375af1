"""TopK's encoder by (values, indices) against the dense sort, with ties at the boundary and every gradient."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.ops import chunks, topk_encode, topk_encode_naive
from tests.ops.largest_tensor import LargestTensor

Problem = dict[str, torch.Tensor | None]
LEAVES = ("x", "W_enc", "b_enc", "b_in")


def problem(
    tokens: int,
    n_latents: int,
    d: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    *,
    integers: bool = False,
    with_b_in: bool = True,
    with_rank_scale: bool = True,
) -> Problem:
    """Arguments of the encoder; of small integers if scores shall tie, and exactly in every precision."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        if integers:
            return torch.randint(-2, 3, shape, generator=generator).to(dtype)
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    scale = 2.0 ** torch.randint(-1, 2, (n_latents,), generator=generator)
    if not integers:
        scale = scale * (0.5 + torch.rand(n_latents, generator=generator))
    return {
        "x": draw(tokens, d),
        "W_enc": draw(d, n_latents),
        "b_enc": draw(n_latents),
        "b_in": draw(d) if with_b_in else None,
        "rank_scale": scale.to(dtype) if with_rank_scale else None,
    }


def latents_and_gradients(
    encode, inputs: Problem, k: int
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Values, indices, and the gradients of a sum that weighs every slot and token differently."""
    leaves = {
        name: tensor.detach().clone().requires_grad_()
        for name in LEAVES
        if (tensor := inputs[name]) is not None
    }
    values, indices = encode(**leaves, rank_scale=inputs["rank_scale"], k=k)
    weights = torch.linspace(-1, 2, values.numel(), dtype=torch.float64).view_as(values)
    gradients = torch.autograd.grad((values * weights.to(values.dtype)).sum(), list(leaves.values()))
    return values.detach(), indices, dict(zip(leaves, gradients, strict=True))


def assert_same_as_naive(inputs: Problem, k: int) -> None:
    values, indices, gradients = latents_and_gradients(topk_encode, inputs, k)
    wanted, wanted_indices, wanted_gradients = latents_and_gradients(topk_encode_naive, inputs, k)
    torch.testing.assert_close(values, wanted)
    assert torch.equal(indices[wanted > 0], wanted_indices[wanted > 0])
    assert (indices.sort(dim=-1).values.diff(dim=-1) > 0).all(), "a latent stands twice in a row"
    for name in gradients:
        torch.testing.assert_close(gradients[name], wanted_gradients[name], msg=f"gradient of {name}")


def encode_by_python(inputs: Problem, k: int) -> list[list[tuple[int, float]]]:
    """The latents that fire, (index, activation), by Python's own sort."""
    x, W_enc, b_enc, b_in, scale = (inputs[n] for n in (*LEAVES, "rank_scale"))
    assert x is not None and W_enc is not None and b_enc is not None
    pre = ((x if b_in is None else x - b_in) @ W_enc + b_enc).tolist()
    scales = [1.0] * len(b_enc) if scale is None else scale.tolist()
    rows = []
    for row in pre:
        ranked = sorted((-z * scales[f], f) for f, z in enumerate(row) if z * scales[f] > 0)
        rows.append([(f, row[f]) for _, f in ranked[:k]])
    return rows


@settings(deadline=None, max_examples=80)
@given(
    tokens=st.integers(1, 5),
    n_latents=st.one_of(st.integers(1, 30), st.sampled_from([112, 128, 144])),
    integers=st.booleans(),
    with_b_in=st.booleans(),
    with_rank_scale=st.booleans(),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_latents_values_and_gradients_are_the_naive_forms(
    tokens: int,
    n_latents: int,
    integers: bool,
    with_b_in: bool,
    with_rank_scale: bool,
    seed: int,
    data: st.DataObject,
) -> None:
    k = data.draw(st.integers(1, min(n_latents, 8)) | st.just(n_latents))
    inputs = problem(
        tokens,
        n_latents,
        seed=seed,
        integers=integers,
        with_b_in=with_b_in,
        with_rank_scale=with_rank_scale,
    )
    assert_same_as_naive(inputs, k)


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    n_latents=st.sampled_from([5, 30, 128]),
    with_rank_scale=st.booleans(),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_ties_of_exact_scores_go_to_the_lower_index(
    dtype: torch.dtype, n_latents: int, with_rank_scale: bool, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, min(n_latents, 8)))
    inputs = problem(4, n_latents, seed=seed, dtype=dtype, integers=True, with_rank_scale=with_rank_scale)
    values, indices = topk_encode(**inputs, k=k)  # type: ignore[arg-type]
    for row, expected in enumerate(encode_by_python(inputs, k)):
        on = len(expected)
        assert list(zip(indices[row].tolist(), values[row].tolist(), strict=True))[:on] == expected
        assert not values[row, on:].any()


@pytest.mark.parametrize("encode", [topk_encode, topk_encode_naive])
def test_encode_by_hand(encode) -> None:
    """Pre-activations (2, 3, −1, 2); ranked by (2, 1.5, −1, 2)."""
    x, W_enc = torch.tensor([[2.0]]), torch.tensor([[1.0, 0.5, 1.0, 2.0]])
    b_enc, b_in = torch.tensor([1.0, 2.5, -2.0, 0.0]), torch.tensor([1.0])
    inputs = {"x": x, "W_enc": W_enc, "b_enc": b_enc, "b_in": b_in}
    for tensor in inputs.values():
        tensor.requires_grad_()
    scale = torch.tensor([1.0, 0.5, 1.0, 1.0])
    values, indices = encode(**inputs, k=2)
    assert values.tolist() == [[3.0, 2.0]] and indices.tolist() == [[1, 0]]
    values, indices = encode(**inputs, k=2, rank_scale=scale)
    assert values.tolist() == [[2.0, 2.0]] and indices.tolist() == [[0, 3]]
    values.backward(torch.tensor([[1.0, 10.0]]))
    assert [tensor.grad.tolist() for tensor in inputs.values() if tensor.grad is not None] == [
        [[1.0 + 20.0]],
        [[1.0, 0.0, 0.0, 10.0]],  # times x − b_in = 1
        [1.0, 0.0, 0.0, 10.0],
        [-21.0],
    ]


def test_slots_left_over_have_value_0_and_no_gradient() -> None:
    inputs = problem(6, 20)
    b_enc = inputs["b_enc"]
    assert b_enc is not None
    b_enc[3:] = -1e3  # three latents at most can fire
    values, _, gradients = latents_and_gradients(topk_encode, inputs, 8)
    assert not values[:, 3:].any() and (values[:, 0] > 0).any()
    assert not gradients["W_enc"][:, 3:].any() and not gradients["b_enc"][3:].any()
    assert_same_as_naive(inputs, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_gradients_are_exactly_0_where_no_latent_fires(dtype: torch.dtype) -> None:
    inputs = problem(6, 20, dtype=dtype)
    inputs["b_enc"] = torch.full((20,), -1e3, dtype=dtype)
    values, indices, gradients = latents_and_gradients(topk_encode, inputs, 4)
    assert not values.any() and all(len(set(row)) == 4 for row in indices.tolist())
    assert all(gradient.isfinite().all() and not gradient.any() for gradient in gradients.values())


def test_an_activation_of_exactly_0_has_no_gradient() -> None:
    x, W_enc = torch.ones(1, 1, requires_grad=True), torch.zeros(1, 3, requires_grad=True)
    values, _ = topk_encode(x, W_enc, torch.zeros(3), 2)
    values.sum().backward()
    assert x.grad is not None and W_enc.grad is not None
    assert not values.any() and not x.grad.any() and not W_enc.grad.any()


def test_latents_ranked_with_0_do_not_fire() -> None:
    """As a latent whose decoder row is 0: switching it off by its bias instead changes nothing else."""
    inputs = problem(9, 40)
    scale, b_enc = inputs["rank_scale"], inputs["b_enc"]
    assert scale is not None and b_enc is not None
    off = torch.arange(40) % 3 != 0
    ranked_with_0 = {**inputs, "rank_scale": scale.masked_fill(off, 0)}
    switched_off = {**inputs, "b_enc": b_enc.masked_fill(off, -1e3)}
    values, indices, gradients = latents_and_gradients(topk_encode, ranked_with_0, 20)
    wanted, wanted_indices, wanted_gradients = latents_and_gradients(topk_encode_naive, switched_off, 20)
    torch.testing.assert_close(values, wanted)
    assert torch.equal(indices[wanted > 0], wanted_indices[wanted > 0])
    assert not off[indices[values > 0]].any() and (values == 0).any()
    for name in gradients:
        torch.testing.assert_close(gradients[name], wanted_gradients[name], msg=f"gradient of {name}")


@pytest.mark.parametrize("floats", [1, 100, 500])
@pytest.mark.parametrize("integers", [False, True])
def test_chunks_do_not_show(integers: bool, floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunks.FLOATS_PER_CHUNK, "cpu", floats)
    assert_same_as_naive(problem(17, 30, integers=integers), 5)


def test_float32_gradients_are_within_1e_5_of_float64() -> None:
    inputs = problem(300, 128, d=32)
    single = {name: None if t is None else t.float() for name, t in inputs.items()}
    exact_values, exact_indices, exact = latents_and_gradients(topk_encode_naive, inputs, 8)
    values, indices, gradients = latents_and_gradients(topk_encode, single, 8)
    assert torch.equal(indices, exact_indices)
    assert (values.double() - exact_values).norm() <= 1e-5 * exact_values.norm()
    for name in gradients:
        error = (gradients[name].double() - exact[name]).norm()
        assert error <= 1e-5 * exact[name].norm(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_gradients_are_summed_in_float32(dtype: torch.dtype) -> None:
    """4096 tokens give 1 each; a sum in bfloat16 would stop at 256, one in float16 at 2048."""
    x, W_enc = torch.ones(4096, 1, dtype=dtype), torch.ones(1, 2, dtype=dtype, requires_grad=True)
    b_enc = torch.tensor([1.0, 0.0], dtype=dtype, requires_grad=True)
    b_in = torch.zeros(1, dtype=dtype, requires_grad=True)
    topk_encode(x, W_enc, b_enc, 1, b_in=b_in)[0].sum().backward()
    assert W_enc.grad is not None and b_enc.grad is not None and b_in.grad is not None
    assert W_enc.grad.tolist() == [[4096.0, 0.0]]
    assert b_enc.grad.tolist() == [4096.0, 0.0]
    assert b_in.grad.tolist() == [-4096.0]


@pytest.mark.parametrize("with_rank_scale", [False, True])
def test_autocast_agrees_roughly_and_keeps_the_parameters_precision(with_rank_scale: bool) -> None:
    inputs = problem(100, 64, d=16, dtype=torch.float32, with_rank_scale=with_rank_scale)
    values, _, gradients = latents_and_gradients(topk_encode, inputs, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _, rough_gradients = latents_and_gradients(topk_encode, inputs, 6)
        naive, _, _ = latents_and_gradients(topk_encode_naive, inputs, 6)
    assert rough.dtype == naive.dtype == torch.float32
    torch.testing.assert_close(rough, naive, rtol=1e-5, atol=1e-5)
    assert (rough - values).norm() <= 2e-2 * values.norm()
    for name in gradients:
        assert rough_gradients[name].dtype == torch.float32
        # A latent on the edge of the top k may fall on the other side.
        error = (rough_gradients[name] - gradients[name]).norm()
        assert error <= 0.25 * gradients[name].norm(), name


@pytest.mark.parametrize("needed", LEAVES)
def test_gradients_reach_only_what_asks_for_them(needed: str) -> None:
    inputs = problem(6, 20)
    expected = latents_and_gradients(topk_encode_naive, inputs, 4)[2]
    for name in LEAVES:
        tensor = inputs[name]
        assert tensor is not None
        tensor.requires_grad_(name == needed)
    values, indices = topk_encode(**inputs, k=4)  # type: ignore[arg-type]
    assert values.requires_grad and not indices.requires_grad
    values.backward(torch.linspace(-1, 2, values.numel(), dtype=torch.float64).view_as(values))
    for name in LEAVES:
        tensor = inputs[name]
        assert tensor is not None
        if name == needed:
            torch.testing.assert_close(tensor.grad, expected[name])
        else:
            assert tensor.grad is None


def test_no_tokens_encode_to_nothing_with_zero_gradients() -> None:
    values, indices, gradients = latents_and_gradients(topk_encode, problem(0, 20), 4)
    assert values.shape == indices.shape == (0, 4)
    assert gradients["x"].shape == (0, 4)
    assert all(not gradient.any() for gradient in gradients.values())


def test_inputs_need_not_be_contiguous() -> None:
    inputs = problem(9, 20)
    for name in ("x", "W_enc"):
        tensor = inputs[name]
        assert tensor is not None
        inputs[name] = tensor.T.contiguous().T
    assert_same_as_naive(inputs, 4)


def test_inputs_are_left_as_they_were() -> None:
    inputs = problem(9, 20)
    before = {name: None if t is None else t.clone() for name, t in inputs.items()}
    latents_and_gradients(topk_encode, inputs, 4)
    for name, tensor in inputs.items():
        old = before[name]
        assert tensor is None or (old is not None and torch.equal(tensor, old)), name


@pytest.mark.parametrize("integers", [False, True])
def test_nothing_as_large_as_the_dense_latents_is_made(integers: bool) -> None:
    """Ties, which integers make in every row, are settled within the chunk."""
    tokens, n_latents, d = 64, 1024, 4
    inputs = problem(tokens, n_latents, d, dtype=torch.float32, integers=integers)
    with patch.dict(chunks.FLOATS_PER_CHUNK, {"cpu": 4 * n_latents}), LargestTensor() as largest:
        latents_and_gradients(topk_encode, inputs, 4)
    assert largest.numel <= 4 * n_latents, largest  # a chunk, and W_enc's gradient
    with LargestTensor() as largest:
        latents_and_gradients(topk_encode_naive, inputs, 4)
    assert largest.numel >= tokens * n_latents, largest

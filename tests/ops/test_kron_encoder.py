"""KronSAE's encoder by (values, indices) against the whole grid, with ties between heads and every gradient."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.ops import chunks, kron_encode, kron_encode_naive, parent_columns
from tests.ops.largest_tensor import LargestTensor

Problem = dict[str, torch.Tensor | None]
LEAVES = ("x", "W_enc", "b_enc", "b_in")


def problem(
    tokens: int,
    heads: int,
    m: int,
    n: int,
    d: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    *,
    integers: bool = False,
    with_b_in: bool = True,
) -> Problem:
    """Arguments of the encoder; of small integers if parents, and with them scores, shall tie."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        if integers:
            return torch.randint(-1, 2, shape, generator=generator).to(dtype)
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    width = heads * (m + n)
    return {
        "x": draw(tokens, d),
        "W_enc": draw(d, width),
        "b_enc": draw(width),
        "b_in": draw(d) if with_b_in else None,
    }


def latents_and_gradients(
    encode, inputs: Problem, k: int, m: int, n: int
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Values, indices, and the gradients of a sum that weighs every slot and token differently."""
    leaves = {
        name: tensor.detach().clone().requires_grad_()
        for name in LEAVES
        if (tensor := inputs[name]) is not None
    }
    values, indices = encode(**leaves, k=k, base_dim=m, extension_dim=n)
    weights = torch.linspace(-1, 2, values.numel(), dtype=torch.float64).view_as(values)
    gradients = torch.autograd.grad((values * weights.to(values.dtype)).sum(), list(leaves.values()))
    return values.detach(), indices, dict(zip(leaves, gradients, strict=True))


def assert_same_as_naive(inputs: Problem, k: int, m: int, n: int) -> None:
    values, indices, gradients = latents_and_gradients(kron_encode, inputs, k, m, n)
    wanted, wanted_indices, wanted_gradients = latents_and_gradients(kron_encode_naive, inputs, k, m, n)
    torch.testing.assert_close(values, wanted)
    assert torch.equal(indices[wanted > 0], wanted_indices[wanted > 0])
    assert (indices.sort(dim=-1).values.diff(dim=-1) > 0).all(), "a latent stands twice in a row"
    for name in gradients:
        torch.testing.assert_close(gradients[name], wanted_gradients[name], msg=f"gradient of {name}")


def squares_by_python(inputs: Problem, k: int, m: int, n: int) -> list[list[tuple[int, int]]]:
    """The latents that fire, (index, u·v), in whole numbers and by Python's own sort."""
    x, W_enc, b_enc, b_in = (inputs[name] for name in LEAVES)
    assert x is not None and W_enc is not None and b_enc is not None
    fused = ((x if b_in is None else x - b_in) @ W_enc + b_enc).long().tolist()
    rows = []
    for row in fused:
        heads = [row[start : start + m + n] for start in range(0, len(row), m + n)]
        products = [max(u, 0) * max(v, 0) for head in heads for u in head[:m] for v in head[m:]]
        ranked = sorted((-product, f) for f, product in enumerate(products) if product > 0)
        rows.append([(f, -product) for product, f in ranked[:k]])
    return rows


@settings(deadline=None, max_examples=100)
@given(
    tokens=st.integers(1, 4),
    heads=st.integers(1, 7),
    m=st.integers(1, 4),
    n=st.integers(1, 4),
    integers=st.booleans(),
    with_b_in=st.booleans(),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_latents_values_and_gradients_are_the_naive_forms(
    tokens: int,
    heads: int,
    m: int,
    n: int,
    integers: bool,
    with_b_in: bool,
    seed: int,
    data: st.DataObject,
) -> None:
    n_latents = heads * m * n
    k = data.draw(st.integers(1, n_latents) | st.just(n_latents))
    inputs = problem(tokens, heads, m, n, seed=seed, integers=integers, with_b_in=with_b_in)
    assert_same_as_naive(inputs, k, m, n)


@settings(deadline=None, max_examples=80)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    heads=st.integers(1, 12),
    m=st.integers(1, 3),
    n=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_ties_of_exact_scores_go_to_the_lower_index(
    dtype: torch.dtype, heads: int, m: int, n: int, seed: int, data: st.DataObject
) -> None:
    """Parents are squares, so that their roots and with them all scores are whole numbers."""
    k = data.draw(st.integers(1, heads * m * n))
    generator = torch.Generator().manual_seed(seed)
    squares = torch.randint(-1, 4, (3, heads * (m + n)), generator=generator)
    inputs: Problem = {
        "x": torch.eye(3, dtype=dtype),
        "W_enc": (squares * squares.abs()).to(dtype),
        "b_enc": torch.zeros(heads * (m + n), dtype=dtype),
        "b_in": None,
    }
    for encode in (kron_encode, kron_encode_naive):
        values, indices = encode(**inputs, k=k, base_dim=m, extension_dim=n)  # type: ignore[arg-type]
        for row, expected in enumerate(squares_by_python(inputs, k, m, n)):
            on = len(expected)
            found = zip(indices[row].tolist(), values[row].square().tolist(), strict=True)
            assert list(found)[:on] == expected
            assert not values[row, on:].any()


@pytest.mark.parametrize("encode", [kron_encode, kron_encode_naive])
def test_encode_by_hand(encode) -> None:
    """Two heads of 1 · 2 latents: u = 4, v = (1, 9) and u = 16, v = (−1, 4), so z = (2, 6, 0, 8)."""
    inputs = {
        "x": torch.tensor([[2.0]]),
        "W_enc": torch.tensor([[4.0, 1.0, 8.0, 16.0, 0.0, 4.0]]),
        "b_enc": torch.tensor([0.0, 0.0, 1.0, 0.0, -1.0, 0.0]),
        "b_in": torch.tensor([1.0]),
    }
    for tensor in inputs.values():
        tensor.requires_grad_()
    values, indices = encode(**inputs, k=2, base_dim=1, extension_dim=2)
    assert values.tolist() == [[8.0, 6.0]] and indices.tolist() == [[3, 1]]
    values.backward(torch.tensor([[8.0, 12.0]]))
    # ∂√(uv)/∂u = √(v/u)/2: of z = 8 it is 1/4 for u = 16 and 1 for v = 4, of z = 6 3/4 for u = 4 and 1/3 for v = 9.
    of_columns = [12 * 3 / 4, 0.0, 12 / 3, 8 / 4, 0.0, 8.0]
    grads = [tensor.grad for tensor in inputs.values()]
    assert all(grad is not None for grad in grads)
    d_x, d_W, d_b, d_b_in = (grad.flatten().tolist() for grad in grads if grad is not None)
    assert d_b == pytest.approx(of_columns) and d_W == pytest.approx(of_columns)  # x − b_in = 1
    total = 4 * 9 + 8 * 4 + 16 * 2 + 4 * 8  # W_enc times these
    assert d_x == pytest.approx([total]) and d_b_in == pytest.approx([-total])


@pytest.mark.parametrize("encode", [kron_encode, kron_encode_naive])
def test_a_tie_at_the_boundary_goes_to_the_lower_head(encode) -> None:
    """Five heads of one latent each; with k = 2 the last of the three fours is left out."""
    scores = torch.tensor([1.0, 4.0, 4.0, 1.0, 4.0])
    W_enc = scores.repeat_interleave(2).unsqueeze(0)  # u = v = the score
    for k, expected in ((1, [1]), (2, [1, 2]), (3, [1, 2, 4]), (4, [1, 2, 4, 0]), (5, [1, 2, 4, 0, 3])):
        values, indices = encode(torch.ones(1, 1), W_enc, torch.zeros(10), k, base_dim=1, extension_dim=1)
        assert indices.tolist() == [expected]
        assert values.tolist() == [scores[expected].tolist()]


def test_a_tie_at_the_boundary_may_be_inside_a_head() -> None:
    """One head of 2 · 2 with u = (1, 4), v = (4, 1): z = (2, 1, 4, 2)."""
    W_enc = torch.tensor([[1.0, 4.0, 4.0, 1.0]])
    for k, expected in ((1, [2]), (2, [2, 0]), (3, [2, 0, 3]), (4, [2, 0, 3, 1])):
        _, indices = kron_encode(torch.ones(1, 1), W_enc, torch.zeros(4), k, base_dim=2, extension_dim=2)
        assert indices.tolist() == [expected]


def test_all_latents_may_be_in_one_head() -> None:
    """The best head holds the nine best latents, so that every other head that is looked at is in vain."""
    inputs = problem(1, 6, 3, 3)
    W_enc = torch.full((1, 36), 1.0, dtype=torch.float64)
    W_enc[0, 12:18] = torch.tensor([9.0, 4.0, 16.0, 25.0, 36.0, 49.0])  # head 2
    inputs |= {"x": torch.ones(1, 1).double(), "W_enc": W_enc, "b_enc": torch.zeros(36).double()}
    inputs["b_in"] = None
    _, indices, _ = latents_and_gradients(kron_encode, inputs, 9, 3, 3)
    assert set(indices[0].tolist()) == set(range(18, 27))
    assert_same_as_naive(inputs, 9, 3, 3)


def test_slots_left_over_have_value_0_and_no_gradient() -> None:
    inputs = problem(6, 5, 2, 3)
    b_enc = inputs["b_enc"]
    assert b_enc is not None
    b_enc[:20] = -1e3  # only the last head can fire
    values, _, gradients = latents_and_gradients(kron_encode, inputs, 8, 2, 3)
    assert not values[:, 6:].any() and (values[:, 0] > 0).any()
    assert not gradients["W_enc"][:, :20].any() and not gradients["b_enc"][:20].any()
    assert_same_as_naive(inputs, 8, 2, 3)


@pytest.mark.parametrize("parents_on", ["none", "base", "extension"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_gradients_are_exactly_0_where_no_latent_fires(dtype: torch.dtype, parents_on: str) -> None:
    inputs = problem(6, 5, 2, 3, dtype=dtype)
    b_enc = torch.full((5, 5), -1e3)
    if parents_on == "base":
        b_enc[:, :2] = 1e3
    if parents_on == "extension":
        b_enc[:, 2:] = 1e3
    inputs["b_enc"] = b_enc.flatten().to(dtype)
    values, indices, gradients = latents_and_gradients(kron_encode, inputs, 4, 2, 3)
    assert not values.any() and all(len(set(row)) == 4 for row in indices.tolist())
    assert all(gradient.isfinite().all() and not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("off", [0.0, -0.0])
def test_a_parent_of_exactly_0_gives_no_score_and_no_gradient(off: float) -> None:
    W_enc = torch.tensor([[off, 4.0, 4.0, off]], requires_grad=True)  # two heads of one pair each
    values, _ = kron_encode(torch.ones(1, 1), W_enc, torch.zeros(4), 2, base_dim=1, extension_dim=1)
    values.sum().backward()
    assert not values.any() and W_enc.grad is not None and not W_enc.grad.any()


@pytest.mark.parametrize("floats", [1, 100, 500])
@pytest.mark.parametrize("integers", [False, True])
def test_chunks_do_not_show(integers: bool, floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunks.FLOATS_PER_CHUNK, "cpu", floats)
    assert_same_as_naive(problem(17, 5, 2, 3, integers=integers), 6, 2, 3)


def test_float32_gradients_are_within_1e_5_of_float64() -> None:
    """Roots are steep near 0, so the biases keep the parents away from there."""
    inputs = problem(300, 16, 2, 4, d=16)
    x, b_enc = inputs["x"], inputs["b_enc"]
    assert x is not None and b_enc is not None
    inputs |= {"x": x / 10, "b_enc": b_enc.sign() * (3 + b_enc.abs())}
    single = {name: None if t is None else t.float() for name, t in inputs.items()}
    exact_values, exact_indices, exact = latents_and_gradients(kron_encode_naive, inputs, 8, 2, 4)
    values, indices, gradients = latents_and_gradients(kron_encode, single, 8, 2, 4)
    assert torch.equal(indices, exact_indices)
    assert (values.double() - exact_values).norm() <= 1e-5 * exact_values.norm()
    for name in gradients:
        error = (gradients[name].double() - exact[name]).norm()
        assert error <= 1e-5 * exact[name].norm(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_gradients_are_summed_in_float32(dtype: torch.dtype) -> None:
    """4096 tokens give 1/2 to each parent; a sum in bfloat16 would stop at 128, one in float16 at 1024."""
    x, W_enc = torch.ones(4096, 1, dtype=dtype), torch.ones(1, 2, dtype=dtype, requires_grad=True)
    b_enc = torch.zeros(2, dtype=dtype, requires_grad=True)
    b_in = torch.zeros(1, dtype=dtype, requires_grad=True)
    kron_encode(x, W_enc, b_enc, 1, base_dim=1, extension_dim=1, b_in=b_in)[0].sum().backward()
    assert W_enc.grad is not None and b_enc.grad is not None and b_in.grad is not None
    assert W_enc.grad.tolist() == [[2048.0, 2048.0]]
    assert b_enc.grad.tolist() == [2048.0, 2048.0]
    assert b_in.grad.tolist() == [-4096.0]


def test_autocast_agrees_roughly_and_keeps_the_parameters_precision() -> None:
    inputs = problem(100, 16, 2, 3, d=16, dtype=torch.float32)
    values, _, gradients = latents_and_gradients(kron_encode, inputs, 6, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _, rough_gradients = latents_and_gradients(kron_encode, inputs, 6, 2, 3)
        naive, _, _ = latents_and_gradients(kron_encode_naive, inputs, 6, 2, 3)
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
    inputs = problem(6, 4, 2, 3)
    expected = latents_and_gradients(kron_encode_naive, inputs, 5, 2, 3)[2]
    for name in LEAVES:
        tensor = inputs[name]
        assert tensor is not None
        tensor.requires_grad_(name == needed)
    values, indices = kron_encode(**inputs, k=5, base_dim=2, extension_dim=3)  # type: ignore[arg-type]
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
    values, indices, gradients = latents_and_gradients(kron_encode, problem(0, 4, 2, 3), 5, 2, 3)
    assert values.shape == indices.shape == (0, 5)
    assert gradients["x"].shape == (0, 4)
    assert all(not gradient.any() for gradient in gradients.values())


def test_inputs_need_not_be_contiguous() -> None:
    inputs = problem(9, 4, 2, 3)
    for name in ("x", "W_enc"):
        tensor = inputs[name]
        assert tensor is not None
        inputs[name] = tensor.T.contiguous().T
    assert_same_as_naive(inputs, 5, 2, 3)


def test_inputs_are_left_as_they_were() -> None:
    inputs = problem(9, 4, 2, 3)
    before = {name: None if t is None else t.clone() for name, t in inputs.items()}
    latents_and_gradients(kron_encode, inputs, 5, 2, 3)
    for name, tensor in inputs.items():
        old = before[name]
        assert tensor is None or (old is not None and torch.equal(tensor, old)), name


def test_parent_columns_are_where_the_pairs_elements_stand() -> None:
    """Head-major, and in each head first the base columns; latents run over heads, base, extension."""
    m, n, heads = 2, 3, 4
    latents = torch.arange(heads * m * n)
    base, extension = parent_columns(latents, m, n)
    expected = [
        (head * (m + n) + i, head * (m + n) + m + j)
        for head in range(heads)
        for i in range(m)
        for j in range(n)
    ]
    assert list(zip(base.tolist(), extension.tolist(), strict=True)) == expected
    assert parent_columns(latents.view(4, 6), m, n)[0].shape == (4, 6)


@pytest.mark.parametrize("integers", [False, True])
def test_nothing_as_large_as_the_dense_scores_is_made(integers: bool) -> None:
    """F = 32768; the fused pre-latents of all tokens, not chunked here, are an eighth of the scores."""
    tokens, heads, m, n, d = 32, 128, 16, 16, 4
    n_latents = heads * m * n
    inputs = problem(tokens, heads, m, n, d, dtype=torch.float32, integers=integers)
    with LargestTensor() as largest:
        latents_and_gradients(kron_encode, inputs, 4, m, n)
    assert largest.numel <= tokens * heads * (m + n) == tokens * n_latents // 8, largest
    with LargestTensor() as largest:
        latents_and_gradients(kron_encode_naive, inputs, 4, m, n)
    assert largest.numel >= tokens * n_latents, largest


def test_small_chunks_hold_the_pre_latents_of_a_few_tokens() -> None:
    tokens, heads, m, n, d = 64, 100, 2, 4, 4
    inputs = problem(tokens, heads, m, n, d, dtype=torch.float32)
    width = heads * (m + n)
    with patch.dict(chunks.FLOATS_PER_CHUNK, {"cpu": 8 * width}), LargestTensor() as largest:
        latents_and_gradients(kron_encode, inputs, 4, m, n)
    assert largest.numel <= 4 * width, largest  # W_enc's gradient is as large

"""Encode, decode and forward: shapes, dtypes, rows that do not see each other, a linear decoder."""

import pytest
import torch

from .cases import CASES, TRAINED, ArchitectureCase
from .synthetic import D_IN, K, sparse_activations

every = pytest.mark.parametrize("case", CASES, ids=str)
trained = pytest.mark.parametrize("case", TRAINED, ids=str)
any_shape = pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 1, 3)], ids=["1d", "2d", "3d", "4d"])


def rows(*shape: int) -> torch.Tensor:
    count = max(1, torch.Size(shape).numel())
    return sparse_activations(count).reshape(*shape, D_IN)


@every
@any_shape
def test_inference_shapes(case: ArchitectureCase, shape: tuple[int, ...]):
    sae, x = case.make_inference(), rows(*shape)
    acts = sae.encode(x)
    assert acts.shape == (*shape, sae.cfg.d_sae)
    assert not acts.is_sparse
    assert sae.decode(acts).shape == x.shape
    assert sae(x).shape == x.shape


@trained
@any_shape
def test_training_shapes(case: ArchitectureCase, shape: tuple[int, ...]):
    sae, x = case.make_trained(), rows(*shape)
    acts, _ = sae.encode_with_hidden_pre(x)
    assert acts.shape == sae.encode(x).shape == (*shape, sae.cfg.d_sae)
    assert sae.decode(acts).shape == sae(x).shape == x.shape


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtype_follows_the_sae_whatever_the_input_is(case: ArchitectureCase, dtype: torch.dtype):
    sae = case.make_inference().to(dtype=dtype)
    for x in (rows(4), rows(4).to(dtype)):
        acts = sae.encode(x)
        assert acts.dtype == dtype
        assert sae.decode(acts).dtype == dtype
        assert acts.isfinite().all()


@every
@any_shape
def test_a_row_encodes_alone_as_in_a_batch(case: ArchitectureCase, shape: tuple[int, ...]):
    sae, x = case.make_inference(), rows(*shape)
    together = sae.encode(x).reshape(-1, sae.cfg.d_sae)
    alone = torch.stack([sae.encode(row) for row in x.reshape(-1, D_IN)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [c for c in TRAINED if c.per_token], ids=str)
def test_a_row_encodes_alone_as_in_a_batch_while_training(case: ArchitectureCase):
    sae, x = case.make_trained(), rows(6)
    alone = torch.cat([sae.encode(row[None]) for row in x])
    torch.testing.assert_close(sae.encode(x), alone, rtol=1e-5, atol=1e-5)


@every
def test_features_are_sparse_and_not_negative(case: ArchitectureCase):
    sae, x = case.make_inference(), rows(64)
    acts = sae.encode(x)
    assert (acts >= 0).all()
    per_row = (acts > 0).sum(dim=-1)
    assert per_row.float().mean() > 0.5
    if hasattr(sae.cfg, "k"):
        assert per_row.max() <= sae.cfg.k == K


@every
def test_decoder_is_linear(case: ArchitectureCase):
    sae = case.make_inference()
    f, g = sae.encode(sparse_activations(8, seed=1)), sae.encode(sparse_activations(8, seed=2))
    zero = sae.decode(torch.zeros_like(f))
    combined = sae.decode(0.3 * f + 2.0 * g) - zero
    apart = 0.3 * (sae.decode(f) - zero) + 2.0 * (sae.decode(g) - zero)
    torch.testing.assert_close(combined, apart, rtol=1e-4, atol=1e-5)


@every
def test_decoding_is_the_same_twice_and_out_of_order(case: ArchitectureCase):
    sae = case.make_inference()
    f, g = sae.encode(sparse_activations(8, seed=1)), sae.encode(5 * sparse_activations(6, seed=2) + 1)
    first = sae.decode(f)
    sae.decode(g)
    assert torch.equal(sae.decode(f), first)


@every
def test_train_and_eval_mode_compute_the_same(case: ArchitectureCase):
    sae, x = case.make_inference(), rows(8)
    assert torch.equal(sae.train()(x), sae.eval()(x))


@every
def test_encode_and_decode_leave_their_inputs_alone(case: ArchitectureCase):
    sae, x = case.make_inference(), rows(4)
    acts = sae.encode(x)
    x_before, acts_before = x.clone(), acts.clone()
    sae(x)
    sae.decode(acts)
    assert torch.equal(x, x_before)
    assert torch.equal(acts, acts_before)


@every
def test_forward_is_decode_of_encode(case: ArchitectureCase):
    sae, x = case.make_inference(), rows(2, 5)
    torch.testing.assert_close(sae(x), sae.decode(sae.encode(x)))


@every
def test_a_zero_activation_gives_finite_output_and_gradients(case: ArchitectureCase):
    sae, x = case.make_inference(), rows(3)
    x[1] = 0
    x.requires_grad_(True)
    out = sae(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()


@trained
def test_the_same_seed_gives_the_same_sae(case: ArchitectureCase):
    torch.manual_seed(3)
    first = case.make_training()
    torch.manual_seed(3)
    second = case.make_training()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("case", [c for c in TRAINED if c.encodes_sparsely], ids=str)
@any_shape
def test_encode_sparse_is_encode_sorted(case: ArchitectureCase, shape: tuple[int, ...]):
    x = rows(*shape)
    if shape:
        x.reshape(-1, D_IN)[0] = 0
    saes = [case.make_trained(), case.make_inference()]
    for sae in [sae for sae in saes if hasattr(sae, "encode_sparse")]:
        values, indices = sae.encode_sparse(x)
        assert values.shape == indices.shape == (*shape, K)
        assert indices.dtype == torch.int64
        assert (values.diff(dim=-1) <= 0).all()
        assert (values >= 0).all()
        dense = torch.zeros(*shape, sae.cfg.d_sae).scatter_add_(-1, indices, values)
        torch.testing.assert_close(dense, sae.encode(x), rtol=1e-5, atol=1e-6)

"""`encode_sparse`: what `encode` holds, in order, with any leading shape and under hooks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sae_lens_ext import (
    KronSAE,
    KronSAEConfig,
)
from tests.architectures.ranked import D_IN, D_SAE, K, both, double, hooked, make, some_dead, step

ENCODERS: dict[str, Callable[[], Any]] = {
    "hierarchical_topk": lambda: make("hierarchical_topk"),
    "hierarchical_topk (1, 3)": lambda: make("hierarchical_topk", budgets=(1, 3)),
    "hierarchical_topk not rescaled": lambda: make("hierarchical_topk", rescale_acts_by_decoder_norm=False),
    "kron": lambda: make("kron"),
    "kron (1, 3)": lambda: make("kron", budgets=(1, 3)),
    "kron with b_dec": lambda: make("kron", apply_b_dec_to_input=True),
    "kron inference": lambda: KronSAE(
        KronSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K, base_dim=2, extension_dim=3)
    ),
}
HOOKS = [None, "hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post"]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("point", HOOKS)
def test_encode_sparse_holds_what_encode_does(encoder: str, shape: tuple[int, ...], point: str) -> None:
    sae, x = ENCODERS[encoder](), torch.randn(*shape, D_IN)
    with hooked(sae, point or "hook_sae_error"):
        values, indices = sae.encode_sparse(x)
        dense = sae.encode(x)
    assert values.shape == indices.shape == (*shape, K)
    assert (values >= 0).all() and (values.diff(dim=-1) <= 0).all()
    assert (indices.sort(dim=-1).values.diff(dim=-1) > 0).all()
    torch.testing.assert_close(torch.zeros(*shape, D_SAE).scatter(-1, indices, values), dense)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encode_sparse_gives_what_a_hook_makes_of_the_latents(encoder: str) -> None:
    sae, x = ENCODERS[encoder](), torch.randn(5, D_IN)
    plain, indices = sae.encode_sparse(x)
    with hooked(sae, "hook_sae_acts_pre", double):
        doubled, same = sae.encode_sparse(x)
    torch.testing.assert_close(doubled, 2 * plain)
    assert torch.equal(same[plain > 0], indices[plain > 0])


@both
def test_encode_sparse_is_differentiable_as_encode_is(name: str) -> None:
    sae, x = make(name, dtype="float64"), torch.randn(5, D_IN, dtype=torch.float64, requires_grad=True)
    leaves = [x, *(p for n, p in sae.named_parameters() if n in ("W_enc", "b_enc"))]
    found = torch.autograd.grad(sae.encode_sparse(x)[0].pow(2).sum(), leaves)
    expected = torch.autograd.grad(sae.encode(x).pow(2).sum(), leaves)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("point", [None, "hook_sae_acts_post"])
@pytest.mark.parametrize("encoder", [e for e in ENCODERS if "(1, 3)" not in e])
def test_encode_sparse_prefers_the_lower_index_between_equals(encoder: str, point: str | None) -> None:
    sae = ENCODERS[encoder]()
    with torch.no_grad():
        sae.W_enc.fill_(1)
        sae.b_enc.fill_(0)
        sae.W_dec.fill_(1)
        sae.b_dec.fill_(0)
    with hooked(sae, point or "hook_sae_error"):
        _, indices = sae.encode_sparse(torch.ones(2, D_IN))
    assert indices.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # SAELens' TopK, torch 2.13
@pytest.mark.parametrize("point", HOOKS)
def test_sparse_activations_change_neither_encode_sparse_nor_the_step(point: str | None) -> None:
    dense = make("hierarchical_topk", rescale_acts_by_decoder_norm=False)
    sparse = make("hierarchical_topk", rescale_acts_by_decoder_norm=False, use_sparse_activations=True)
    sparse.load_state_dict(dense.state_dict())
    x = torch.randn(5, D_IN)
    with hooked(sparse, point or "hook_sae_error"):
        found = step(sparse, x, some_dead("few")).loss
        kept = sparse.encode_sparse(x)
    torch.testing.assert_close(found, step(dense, x, some_dead("few")).loss)
    torch.testing.assert_close(kept, dense.encode_sparse(x))

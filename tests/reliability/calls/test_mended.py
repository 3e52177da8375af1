"""Silent faults that the calls found, each once more by itself."""

import pytest
import torch

from sae_lens_ext import HierarchicalTopKTrainingSAE, HierarchicalTopKTrainingSAEConfig, ops, with_k
from tests.contract.synthetic import step_input

from .architectures_calls import activations, hierarchical, kron
from .saes import make_sae


def test_with_k_leaves_a_frozen_decoder_frozen():
    sae = make_sae("topk")
    sae.W_dec.requires_grad_(False)
    other = with_k(sae, 2)
    assert not sae.W_dec.requires_grad and not other.W_dec.requires_grad
    assert sae.W_enc.requires_grad and other.W_enc.requires_grad


@pytest.mark.parametrize("encode", [ops.kron_encode, ops.kron_encode_naive])
def test_kron_encode_of_nan_is_nan_and_not_off(encode):
    x = activations()
    x[0, 0] = float("nan")
    values, _ = encode(x, torch.ones(16, 18), torch.ones(18), 4, base_dim=2, extension_dim=4)
    assert values[0].isnan().all() and values[1:].isfinite().all()


def test_top_k_keeps_nan_of_either_sign_first():
    scores = torch.tensor([[1.0, 2.0, 2.0, -float("nan"), 0.5]])
    for top_k in (ops.top_k, ops.top_k_naive):
        assert top_k(scores, 3)[0][0, 0].isnan()


@pytest.mark.parametrize("make", [kron, hierarchical])
def test_encode_sparse_reads_a_tensor_made_in_inference_mode(make):
    with torch.inference_mode():
        x = activations()
    sae = make()
    torch.testing.assert_close(sae.encode_sparse(x)[0], sae.encode_sparse(x.clone())[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "x", [torch.tensor(1.0), torch.zeros(3, 16, dtype=torch.complex64), torch.zeros(3, 1)]
)
@pytest.mark.parametrize("make", [kron, hierarchical])
def test_encode_refuses_what_pytorch_would_broadcast_or_cut(make, x):
    with pytest.raises(ValueError, match="was given activations x of"):
        make().encode(x)


def test_dead_latent_loss_works_with_one_input_dimension():
    sae = HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(d_in=1, d_sae=4, k=1))
    output = sae.training_forward_pass(
        step_input=step_input(torch.randn(5, 1), dead=torch.tensor([True, False, True, False]))
    )
    assert torch.isfinite(output.loss)

"""An SAE is known by its weights, whatever their precision."""

import torch

from sae_lens_ext import weights_fingerprint, with_k
from tests.architectures.bases import base_sae


def test_weights_fingerprint_is_of_the_weights_not_their_precision() -> None:
    sae = base_sae("standard")
    before = weights_fingerprint(sae)
    assert weights_fingerprint(base_sae("standard")) == before
    assert weights_fingerprint(base_sae("standard").to(dtype=torch.bfloat16)) == before
    assert weights_fingerprint(base_sae("standard").to(dtype=torch.float64)) == before
    assert weights_fingerprint(base_sae("standard", seed=1)) != before
    topk = base_sae("topk")
    assert weights_fingerprint(with_k(topk, 2)) != weights_fingerprint(topk)
    with torch.no_grad():
        sae.W_dec[3, 2] *= 1.01
    assert weights_fingerprint(sae) != before

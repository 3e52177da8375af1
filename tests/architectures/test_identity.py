"""An SAE is known by its weights, whatever their precision; a site by its hook, whatever its name."""

import pytest
import torch

from sae_lens_ext import weights_fingerprint, with_k
from sae_lens_ext.architectures.identity import same_hook
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


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("blocks.10.hook_resid_post", "blocks.10.hook_out", True),
        ("blocks.10.hook_resid_pre", "blocks.10.hook_in", True),
        ("blocks.3.hook_attn_out", "blocks.3.attn.hook_out", True),
        ("blocks.3.hook_mlp_out", "blocks.3.mlp.hook_out", True),
        ("blocks.1.hook_out", "blocks.10.hook_out", False),
        ("blocks.1.hook_resid_pre", "blocks.1.hook_resid_post", False),
        ("blocks.3.attn.hook_z", "blocks.3.attn.hook_z", True),
        (None, "blocks.3.hook_out", True),
    ],
)
def test_same_hook(first: str | None, second: str | None, same: bool) -> None:
    assert same_hook(first, second) is same
    assert same_hook(second, first) is same

from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

TOY_PROBABILITIES = (0.5, 0.25, 0.125, 0.125)


@pytest.fixture
def toy_model() -> Any:
    """Four tokens; whatever stands before, the next has the probabilities above. Steering adds to its logits."""
    cfg = HookedTransformerConfig(
        n_layers=1,
        d_model=4,
        d_head=4,
        n_heads=1,
        d_vocab=4,
        n_ctx=8,
        attn_only=True,
        normalization_type=None,
    )
    model = HookedTransformer(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.unembed.W_U.copy_(torch.eye(4))
        model.unembed.b_U.copy_(torch.tensor(TOY_PROBABILITIES).log())
    return model

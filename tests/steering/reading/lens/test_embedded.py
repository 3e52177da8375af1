"""The lens on the embedded model: both kinds read alike, and a token's own column names it."""

import pytest
import torch

from sae_lens_ext.embedded import load_embedded_model
from sae_lens_ext.steering.reading.lens import logit_lens


@pytest.mark.embedded
def test_both_kinds_of_the_embedded_model_read_alike() -> None:
    hooked, bridge = load_embedded_model("hooked"), load_embedded_model("bridge")
    words = {
        word: hooked.W_U[:, hooked.tokenizer.encode(word, add_special_tokens=False)[0]].detach()
        for word in (" To", " Step")
    }
    for final_norm in (False, True):
        first, second = (logit_lens(model, words, final_norm=final_norm) for model in (hooked, bridge))
        assert torch.equal(first.top_ids, second.top_ids)
        assert torch.allclose(first.top_values, second.top_values, atol=1e-5)
        assert (first.final_norm, second.unembedding) == ("RMSNorm" if final_norm else None, "as trained")
    plain = logit_lens(bridge, words)
    for word in words:
        assert plain.top(word, 1) == [(word, pytest.approx(1.0, abs=1e-5))]
    assert plain.n_tokens == 49_152
    assert plain.null_cosine is not None and 0.1 < plain.null_cosine < 0.25

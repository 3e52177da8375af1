"""Models that LIMe is attached to: learnt and rotary positions, one head of keys for each of queries and fewer."""

from pathlib import Path
from typing import Any

import pytest
from sae_lens import HookedSAETransformer
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from transformer_lens import HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from tests.conftest import TINY
from tests.tiny_llama import save_tiny_llama

_GROUPED = TINY | {
    "n_layers": 3,
    "n_heads": 4,
    "d_head": 4,
    "n_key_value_heads": 2,
    "positional_embedding_type": "rotary",
    "rotary_dim": 4,
}


@pytest.fixture
def grouped_hooked(tokenizer: PreTrainedTokenizerFast) -> HookedSAETransformer:
    """A `HookedTransformer` of three layers with rotary positions, two heads of keys for four of queries."""
    cfg = HookedTransformerConfig(**_GROUPED, normalization_type="RMS", device="cpu")
    return HookedSAETransformer(cfg, tokenizer=tokenizer).eval()


@pytest.fixture
def grouped_native(tokenizer: PreTrainedTokenizerFast) -> TransformerBridge:
    """The same as a native `TransformerBridge`."""
    return TransformerBridge.boot_native(dict(_GROUPED), tokenizer=tokenizer).eval()


@pytest.fixture
def grouped_llama(tmp_path: Path, tokenizer_folder: Path) -> SAETransformerBridge:
    """A `TransformerBridge` of a random Llama of three layers, two heads of keys for four of queries."""
    folder = save_tiny_llama(
        tmp_path / "llama",
        tokenizer_folder,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    return SAETransformerBridge.boot_transformers(str(folder)).eval()


KINDS = ["hooked_model", "sae_bridge", "native_bridge", "grouped_hooked", "grouped_native", "grouped_llama"]


@pytest.fixture(params=KINDS)
def any_carrier(request: pytest.FixtureRequest) -> Any:
    """Each kind of model that carries routing in turn."""
    return request.getfixturevalue(request.param)

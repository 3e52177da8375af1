"""A tiny Llama, whose heads of keys and values are fewer than those of queries, as every kind of model; and vectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

from sae_lens_ext.embedded.model import _load_hooked
from tests.conftest import CONTEXT
from tests.tiny_llama import save_tiny_llama


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A random Llama of three layers saved as Hugging Face does: grouped queries, RMSNorm, rotary embeddings, gated MLP."""
    return save_tiny_llama(
        tmp_path_factory.mktemp("llama"),
        tokenizer_folder,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
    )


@pytest.fixture
def llama_hooked(llama_folder: Path) -> Any:
    return _load_hooked(llama_folder, "cpu", torch.float32).eval()


@pytest.fixture
def llama_bridge(llama_folder: Path) -> Any:
    return SAETransformerBridge.boot_transformers(str(llama_folder)).eval()


@pytest.fixture(params=["hooked_model", "sae_bridge", "native_bridge", "llama_hooked", "llama_bridge"])
def every_model(request: pytest.FixtureRequest) -> Any:
    """Each kind of model in turn, with LayerNorm and as Llama."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["llama_hooked", "llama_bridge"])
def llama(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def vector() -> torch.Tensor:
    """As long as the residual streams of these models, so that every path shows."""
    return torch.randn(16, generator=torch.Generator().manual_seed(5))

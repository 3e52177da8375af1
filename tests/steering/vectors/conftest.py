"""A random two-layer Llama with biases on its MLPs, in every kind of model; all biases are zero."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import HookedSAETransformer
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from transformer_lens import HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.conftest import CONTEXT, VOCABULARY
from tests.tiny_llama import save_tiny_llama

N_LAYERS, D_MODEL, D_MLP, N_HEADS = 3, 16, 24, 2


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    return save_tiny_llama(
        tmp_path_factory.mktemp("llama"),
        tokenizer_folder,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_HEADS,
        max_position_embeddings=4 * CONTEXT,
        mlp_bias=True,
    )


@pytest.fixture
def llama(llama_folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(llama_folder).eval()


def llama_bridge(folder: Path) -> TransformerBridge:
    return TransformerBridge.boot_transformers(str(folder)).eval()


def llama_sae_bridge(folder: Path) -> SAETransformerBridge:
    return SAETransformerBridge.boot_transformers(str(folder)).eval()


def llama_hooked(folder: Path) -> HookedSAETransformer:
    source: Any = LlamaForCausalLM.from_pretrained(folder)
    cfg = HookedTransformerConfig(
        d_model=D_MODEL,
        d_head=D_MODEL // N_HEADS,
        n_heads=N_HEADS,
        n_key_value_heads=N_HEADS,
        d_mlp=D_MLP,
        n_layers=N_LAYERS,
        n_ctx=4 * CONTEXT,
        d_vocab=len(VOCABULARY),
        eps=source.config.rms_norm_eps,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        positional_embedding_type="rotary",
        rotary_dim=D_MODEL // N_HEADS,
        rotary_base=int(source.config.rope_parameters["rope_theta"]),
        rotary_adjacent_pairs=False,
        original_architecture="LlamaForCausalLM",
        init_weights=False,
        device="cpu",
    )
    model = HookedSAETransformer(cfg, tokenizer=PreTrainedTokenizerFast.from_pretrained(folder))
    with torch.no_grad():
        model.load_state_dict(convert_llama_weights(source, cfg), strict=False)
    return model.eval()


LLAMA_KINDS = {"hooked": llama_hooked, "bridge": llama_bridge, "sae_bridge": llama_sae_bridge}


@pytest.fixture(params=list(LLAMA_KINDS))
def any_llama(request: pytest.FixtureRequest, llama_folder: Path) -> Any:
    """Each kind of model in turn, of the same weights."""
    return LLAMA_KINDS[request.param](llama_folder)


def random_vectors(
    *layers: int, seed: int = 0, scale: float = 1.0, width: int = D_MODEL
) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: scale * torch.randn(width, generator=generator) for layer in layers}

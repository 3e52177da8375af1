from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import BloomConfig, BloomForCausalLM, GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

from sae_lens_ext.steering import AddVector
from sae_lens_ext.steering.reading.path_patching import patched_paths
from sae_lens_ext.steering.reading.path_patching.identities import check_identities
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.conftest import TINY, VOCABULARY


def run(model: Any, tokens: torch.Tensor, vector: Any, mode: Any = "skip_attn", layer: Any = None) -> None:
    with patched_paths(model, vector, mode, layer=layer), torch.no_grad():
        model(tokens)


def bridge_of(hf_model: Any, folder: Path, tokenizer_folder: Path) -> Any:
    hf_model.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return SAETransformerBridge.boot_transformers(str(folder)).eval()


def test_vectors_that_do_not_fit_are_refused(any_model: Any, tokens: torch.Tensor, vector: torch.Tensor):
    with pytest.raises(ValueError, match="patched_paths was given 'vector' with 15 numbers.*width 16"):
        run(any_model, tokens, vector[:15])
    with pytest.raises(
        ValueError, match="2 vectors, 'layer 0', 'layer 1', but patches the paths of one.*only"
    ):
        run(any_model, tokens, SteeringVectors({0: vector, 1: vector}))
    with pytest.raises(ValueError, match="given str as vectors"):
        run(any_model, tokens, "vector")
    with pytest.raises(ValueError, match="'blocks.0.hook_mlp_out', but a vector enters a block through"):
        run(any_model, tokens, AddVector("blocks.0.hook_mlp_out", vector))
    with pytest.raises(ValueError, match="acts on some tokens only.*Leave positions and phases out"):
        run(any_model, tokens, AddVector("blocks.0.hook_resid_post", vector, positions=3))
    with pytest.raises(ValueError, match="acts on some tokens only"):
        run(any_model, tokens, AddVector("blocks.0.hook_resid_post", vector, phases=("prompt",)))


def test_layers_without_a_block_after_them_are_refused(
    any_model: Any, tokens: torch.Tensor, vector: torch.Tensor, tokenizer: Any
):
    with pytest.raises(ValueError, match="layer 1, after which there is no block.*has 2 layers.*from 0 to 0"):
        run(any_model, tokens, vector, layer=1)
    with pytest.raises(ValueError, match="layer -1, after which there is no block"):
        run(any_model, tokens, vector, layer=-1)
    with pytest.raises(ValueError, match="layer 1, after which there is no block"):
        run(any_model, tokens, SteeringVectors({1: vector}))
    with pytest.raises(ValueError, match="layer = 1, but the vector is of layer 0. Leave layer out"):
        run(any_model, tokens, SteeringVectors({0: vector}), layer=1)
    with pytest.raises(ValueError, match="layer = 'last'. Give a whole number"):
        run(any_model, tokens, vector, layer="last")
    single = HookedTransformer(HookedTransformerConfig(**{**TINY, "n_layers": 1}, device="cpu"), tokenizer)
    with pytest.raises(ValueError, match="a model of one layer, which has no block after a layer"):
        run(single, tokens, vector)


def test_heads_that_do_not_exist_are_refused(llama: Any, tokens: torch.Tensor, vector: torch.Tensor):
    with pytest.raises(
        ValueError, match="head 4 of q, but block 2 .* has 4 query heads. Give one from 0 to 3"
    ):
        run(llama, tokens, vector, "vanilla:q:4")
    with pytest.raises(ValueError, match="head 2 of k, but block 2 .* has 2 key-value heads"):
        run(llama, tokens, vector, "only:k:2")
    with pytest.raises(ValueError, match="There is no path mode 'skip_all'"):
        run(llama, tokens, vector, "skip_all")


def test_a_model_that_never_ran_is_an_error(any_model: Any, vector: torch.Tensor):
    with (
        pytest.raises(RuntimeError, match="Block 1 never ran, so no path was patched"),
        patched_paths(any_model, vector, "full"),
    ):
        pass


def test_split_inputs_that_are_on_are_refused(hooked_model: Any, tokens: torch.Tensor, vector: torch.Tensor):
    hooked_model.set_use_split_qkv_input(True)
    with pytest.raises(ValueError, match=r"use_split_qkv_input is on.*set_use_split_qkv_input\(False\)"):
        run(hooked_model, tokens, vector)


def test_a_hook_that_changes_what_the_block_reads_is_an_error(
    hooked_model: Any, tokens: torch.Tensor, vector: torch.Tensor
):
    with patched_paths(hooked_model, vector, "skip_attn"):
        hooked_model(tokens)
        late = ("blocks.1.hook_resid_pre", lambda x, hook: x * 1.5)
        with pytest.raises(
            NotImplementedError, match="no place where attention reads its input nor where the MLP"
        ):
            hooked_model.run_with_hooks(tokens, fwd_hooks=[late])


def test_a_projection_that_is_not_that_of_the_weights_is_an_error(
    hooked_model: Any, tokens: torch.Tensor, vector: torch.Tensor
):
    hooked_model.blocks[1].attn.hook_q.add_hook(lambda q, hook: q * 1.5)
    with pytest.raises(NotImplementedError, match="q at 'blocks.1.attn.hook_q' is not what the block's norm"):
        run(hooked_model, tokens, vector, "vanilla:q:1")
    run(hooked_model, tokens, vector, "vanilla:k:1")


def test_one_norm_for_attention_and_mlp_is_refused_but_for_plain_steering(
    tmp_path: Path, tokenizer_folder: Path, tokens: torch.Tensor, vector: torch.Tensor
):
    cfg = GPTJConfig(
        vocab_size=len(VOCABULARY),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        rotary_dim=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = bridge_of(GPTJForCausalLM(cfg), tmp_path, tokenizer_folder)
    for mode in ("skip_attn", "skip_mlp", "skip_layer", "only:q:0"):
        with pytest.raises(NotImplementedError, match="no place where the MLP reads the residual stream"):
            run(model, tokens, vector, mode)
    run(model, tokens, vector, "full")


def test_a_residual_stream_that_goes_through_the_layers_stays_steered(
    tmp_path: Path, tokenizer_folder: Path, tokens: torch.Tensor, vector: torch.Tensor
):
    """Bloom's attention is given the residual stream beside what it reads, and adds it itself."""
    cfg = BloomConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = bridge_of(BloomForCausalLM(cfg), tmp_path, tokenizer_folder)
    found = check_identities(
        model, 0, vector, lambda: model(tokens, return_type="logits").detach(), heads=True
    )
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize(
    "fields",
    [
        {"normalization_type": "LN", "parallel_attn_mlp": True},
        {"normalization_type": "LN", "attn_only": True},
        {"normalization_type": None},
        {"normalization_type": "RMS", "use_normalization_before_and_after": True},
        {"normalization_type": "RMS", "original_architecture": "Olmo2ForCausalLM"},
        {"normalization_type": "LN", "n_key_value_heads": 1, "ungroup_grouped_query_attention": True},
    ],
)
def test_blocks_of_every_layout_keep_the_identities(
    tokenizer: Any, tokens: torch.Tensor, vector: torch.Tensor, fields: dict[str, Any]
):
    model = HookedTransformer(HookedTransformerConfig(**TINY, **fields, device="cpu"), tokenizer).eval()
    found = check_identities(
        model, 0, vector, lambda: model(tokens, return_type="logits").detach(), heads=True
    )
    assert max(found.values()) < 1e-5


def test_a_parallel_block_reads_the_input_twice(tokenizer: Any, tokens: torch.Tensor, vector: torch.Tensor):
    """There skip_mlp takes the vector from the MLP alone, so that what attention adds is that of full."""
    fields: Any = {**TINY, "normalization_type": "LN", "parallel_attn_mlp": True, "device": "cpu"}
    model = HookedTransformer(HookedTransformerConfig(**fields), tokenizer).eval()
    names = ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"]
    outputs: dict[str, Any] = {}
    for mode in ("base", "full", "skip_attn", "skip_mlp"):
        with torch.no_grad(), patched_paths(model, vector, mode):
            outputs[mode] = model.run_with_cache(tokens, names_filter=lambda name: name in names)[1]
    for mode, attention, mlp in (("skip_attn", "base", "full"), ("skip_mlp", "full", "base")):
        assert torch.equal(outputs[mode][names[0]], outputs[attention][names[0]])
        assert torch.equal(outputs[mode][names[1]], outputs[mlp][names[1]])

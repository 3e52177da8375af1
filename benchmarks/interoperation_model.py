"""The model of a Hugging Face folder of the Llama architecture as a HookedTransformer, with no package of ours.

Runs in the environments of the other packages: TransformerLens 2.17 to 3.9, transformers 4.56 to 5. Where the model is one
that TransformerLens knows by name, `HookedTransformer.from_pretrained_no_processing(name)` does all this.
"""

from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformers import AutoTokenizer, LlamaForCausalLM

N_CTX = 512  # rotary tables of this length are kept in every layer


def hooked(
    folder: str | Path, name: str, *, kind: type[HookedTransformer] = HookedTransformer
) -> HookedTransformer:
    """Give the model in float32 on the CPU, nothing folded or centred.

    Args:
        folder: The Hugging Face folder.
        name: What the SAEs' metadata call the model.
        kind: HookedTransformer or a class made from it, such as SAELens' HookedSAETransformer.
    """
    llama: Any = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    source = llama.config
    cfg = HookedTransformerConfig(
        d_model=source.hidden_size,
        d_head=source.head_dim,
        n_heads=source.num_attention_heads,
        n_key_value_heads=source.num_key_value_heads,
        d_mlp=source.intermediate_size,
        n_layers=source.num_hidden_layers,
        n_ctx=N_CTX,
        d_vocab=source.vocab_size,
        eps=source.rms_norm_eps,
        act_fn=source.hidden_act,
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        positional_embedding_type="rotary",
        rotary_dim=source.head_dim,
        rotary_base=int(rope_theta(source)),
        rotary_adjacent_pairs=False,
        original_architecture="LlamaForCausalLM",
        model_name=name,
        init_weights=False,
        device="cpu",
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = kind(cfg, tokenizer=tokenizer, default_padding_side="right")
    with torch.no_grad():
        missing, unexpected = model.load_state_dict(convert_llama_weights(llama, cfg), strict=False)
    unset = {name for name, _ in model.named_parameters()}.intersection(missing)
    if unset or unexpected:
        raise SystemExit(f"The model does not fit: without a value {unset}, without a place {unexpected}.")
    return model.eval()


def rope_theta(config: Any) -> float:
    """Read the rotary base, which transformers 4 and 5 keep in different places."""
    return getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]

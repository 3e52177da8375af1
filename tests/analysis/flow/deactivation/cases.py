"""SAEs of a tiny model's sites, and the deactivation test by one full forward pass for each intervention."""

from typing import Any

import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_ext.analysis.flow.deactivation import DeactivationResult, deactivation_test
from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.language_model import Site, find_hook_point, packed_contexts, read_activations
from tests.analysis.domains import CONTEXT, TEXTS
from tests.language_model.test_hook_points import own_name

N_TEXTS, PER_TEXT, SEED = 4, 2, 5
HOOKS = {
    "early": ("blocks.0.hook_resid_post", "blocks.0.hook_out"),
    "late": ("blocks.1.hook_resid_post", "blocks.1.hook_out"),
    "mlp": ("blocks.1.hook_mlp_out", "blocks.1.mlp.hook_out"),
    "attention": ("blocks.1.hook_attn_out", "blocks.1.attn.hook_out"),
    "heads": ("blocks.1.attn.hook_z", "blocks.1.attn.o.hook_in"),
}


def flow_sae(model: Any, site: str, d_sae: int = 32, seed: int = 0, **fields: Any) -> JumpReLUSAE:
    """An SAE whose latents read along their own rows, with thresholds that let about a third of them fire on this model."""
    hook = own_name(model, *HOOKS[site])
    x = read_activations(model, tokens_of(model)[:12], Site(hook))
    x = x[:, 1:].reshape(-1, x.shape[-1])
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=x.shape[1], d_sae=d_sae, **fields))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(d_sae, x.shape[1], generator=generator)
    rows = rows / rows.norm(dim=1, keepdim=True) * torch.rand(d_sae, 1, generator=generator).add(0.5)
    pre = (x - x.mean(dim=0)) @ rows.T
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
        sae.b_enc.copy_(-(x.mean(dim=0) @ rows.T))
        sae.b_dec.copy_(x.mean(dim=0))
        sae.threshold.copy_(pre.clamp(min=0).mean(dim=0) + 1e-4)
    sae.cfg.apply_b_dec_to_input = False
    sae.cfg.metadata.hook_name = hook
    sae.cfg.metadata.hook_head_index = None
    return sae


def tokens_of(model: Any, n: int = 40, seed: int = SEED) -> torch.Tensor:
    return packed_contexts(
        TEXTS["code"],
        model.tokenizer,
        context_size=CONTEXT,
        max_tokens=n * CONTEXT,
        seed=seed,
        what="It",
    )


def saes_of(model: Any, *sites: str, **fields: Any) -> dict[str, SAE[Any]]:
    saes = [flow_sae(model, site, seed=i, **fields) for i, site in enumerate(sites)]
    return {str(sae.cfg.metadata.hook_name): sae for sae in saes}


def deactivate(model: Any, sites: Any, texts: Any = None, **settings: Any) -> DeactivationResult:
    small = {
        "n_texts": N_TEXTS,
        "tokens_per_text": PER_TEXT,
        "max_features": 6,
        "pearson_tokens": 20 * CONTEXT,
        "context_size": CONTEXT,
        "seed": SEED,
        "show_progress": False,
    }
    return deactivation_test(model, sites, TEXTS["code"] if texts is None else texts, **{**small, **settings})


def encode(sae: SAE[Any], x: torch.Tensor) -> torch.Tensor:
    with flat_heads(sae):
        return sae.encode(x)


@torch.no_grad()
def deactivated(
    model: Any,
    tokens: torch.Tensor,
    position: int,
    source: SAE[Any],
    latent: int,
    target: SAE[Any],
    factor: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is left of all target features at a token, and what they were, by full forward passes over the whole context."""
    found: list[torch.Tensor] = []

    def edit(h: torch.Tensor, hook: Any) -> torch.Tensor:
        flat = h.flatten(start_dim=2)
        a = encode(source, flat)[0, position, latent]
        new = flat.clone()
        new[0, position] += (factor - 1) * a * source.W_dec[latent]
        return new.reshape(h.shape)

    def read(h: torch.Tensor, hook: Any) -> None:
        found.append(h[0, position].clone())

    points = [find_hook_point(model, str(sae.cfg.metadata.hook_name)) for sae in (source, target)]
    for with_edit in (False, True):
        try:
            if with_edit:
                points[0].add_hook(edit)
            points[1].add_hook(read)
            model(tokens[None])
        finally:
            for point in points:
                point.remove_hooks()
    old, new = (encode(target, x) for x in found)
    return new, old

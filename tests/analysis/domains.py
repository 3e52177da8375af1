"""Small SAEs, texts and settings for `evaluate_domains`, and its cross-entropy by hand."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_ext.analysis.domains import DomainMeasurement, DomainReport, evaluate_domains
from sae_lens_ext.language_model import packed_contexts

D_MODEL, CONTEXT, N_CONTEXTS, BATCH = 16, 16, 12, 4
RESIDUAL = ("blocks.0.hook_resid_post", "blocks.0.hook_out")
LATER = ("blocks.1.hook_mlp_out", "blocks.1.mlp.hook_out")
HEADS = ("blocks.0.attn.hook_z", "blocks.0.attn.o.hook_in")


def documents(seed: int, words: range = range(30), n: int = 40) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 30, (n,), generator=generator).tolist()
    picks = [torch.randint(words.start, words.stop, (n,), generator=generator).tolist() for n in lengths]
    return [" ".join(f"w{word}" for word in pick) for pick in picks]


TEXTS = {"code": documents(3), "general": documents(4, words=range(12))}


def sae_at(hook_name: str, d_in: int = D_MODEL, seed: int = 0, **fields: Any) -> JumpReLUSAE:
    """A random SAE of that hook, whose latents fire for some tokens and not for others."""
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_in, d_sae=24, **fields))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if name == "threshold":
                parameter.abs_()
    for name, value in {"hook_name": hook_name, "context_size": CONTEXT, "prepend_bos": True}.items():
        sae.cfg.metadata[name] = value
    return sae


def evaluate(model: Any, saes: dict[str, SAE[Any]], texts: Any = None, **settings: Any) -> DomainReport:
    small = {
        "context_size": CONTEXT,
        "max_tokens": CONTEXT * N_CONTEXTS,
        "batch_size": BATCH,
        "show_progress": False,
    }
    return evaluate_domains(model, saes, TEXTS if texts is None else texts, **{**small, **settings})


def numbers(measurement: DomainMeasurement) -> dict[str, float]:
    named = {**dataclasses.asdict(measurement), "ce_score": measurement.ce_score}
    return {name: value for name, value in named.items() if name not in ("sae", "domain")}


def read_tokens(model: Any, domain: str, seed: int = 0) -> torch.Tensor:
    return packed_contexts(
        TEXTS[domain],
        model.tokenizer,
        context_size=CONTEXT,
        max_tokens=CONTEXT * N_CONTEXTS,
        seed=seed,
        what="It",
    )


@torch.no_grad()
def by_hand(
    model: Any, hook_name: str, tokens: torch.Tensor, replace: Callable[[torch.Tensor], torch.Tensor]
) -> float:
    """Cross-entropy with `replace(activations)` in place, token by token, except from special tokens."""
    logits = model.run_with_hooks(tokens, fwd_hooks=[(hook_name, lambda x, hook: replace(x))])
    losses = []
    for row, scores in zip(tokens.tolist(), logits.float().log_softmax(dim=-1), strict=True):
        for position in range(len(row) - 1):
            if row[position] != 0:
                losses.append(-scores[position, row[position + 1]].item())
    return sum(losses) / len(losses)


def special(tokens: torch.Tensor) -> torch.Tensor:
    return (tokens == 0)[..., None]

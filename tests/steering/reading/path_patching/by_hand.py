"""The last block of a GPT-2-like model written out from its weights, head by head, with what each head and the MLP read said apart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from sae_lens_ext.steering.reading.path_patching import PathMode

EPS = 1e-5


@dataclass
class Weights:
    """Of the last block and what comes after it, float64."""

    ln1: tuple[torch.Tensor, torch.Tensor]
    W: dict[str, torch.Tensor]  # "q", "k", "v": [head, d_model, d_head]
    b: dict[str, torch.Tensor]  # [head, d_head]
    out: tuple[torch.Tensor, torch.Tensor]  # [head, d_head, d_model], [d_model]
    ln2: tuple[torch.Tensor, torch.Tensor]
    mlp_in: tuple[torch.Tensor, torch.Tensor]  # [d_model, d_mlp]
    mlp_out: tuple[torch.Tensor, torch.Tensor]
    act: Callable[[torch.Tensor], torch.Tensor]
    final: tuple[torch.Tensor, torch.Tensor]
    unembed: tuple[torch.Tensor, torch.Tensor]  # [d_model, d_vocab]


def weights_of(model: Any) -> Weights:
    """Of a HookedTransformer or native bridge with LayerNorm and ReLU."""
    block = model.blocks[-1]

    def norm(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return module.w.double(), module.b.double()

    if hasattr(model, "W_U") and hasattr(block.mlp, "W_in") and block.mlp.W_in.shape[0] == model.cfg.d_model:
        mlp = [
            (block.mlp.W_in.double(), block.mlp.b_in.double()),
            (block.mlp.W_out.double(), block.mlp.b_out.double()),
        ]
    else:
        raw = block.mlp.original_component
        mlp = [(m.weight.T.double(), m.bias.double()) for m in (linear(raw.fc_in), linear(raw.fc_out))]
    attn = block.attn
    heads = {"q": attn.b_Q, "k": attn.b_K, "v": attn.b_V}
    return Weights(
        ln1=norm(block.ln1),
        W={"q": attn.W_Q.double(), "k": attn.W_K.double(), "v": attn.W_V.double()},
        b={part: bias.double().reshape(model.cfg.n_heads, -1) for part, bias in heads.items()},
        out=(attn.W_O.double(), attn.b_O.double()),
        ln2=norm(block.ln2),
        mlp_in=mlp[0],
        mlp_out=mlp[1],
        act=torch.relu,
        final=norm(model.ln_final),
        unembed=(model.W_U.double(), torch.as_tensor(model.b_U).double()),
    )


def linear(module: Any) -> Any:
    return getattr(module, "original_component", None) or module


def weights_of_gpt2(model: GPT2LMHeadModel) -> Weights:
    """Of Hugging Face's own GPT-2, which no bridge has touched."""
    block, n = model.transformer.h[-1], model.config.n_head

    def pair(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return module.weight.double(), module.bias.double()

    weight, bias = pair(block.attn.c_attn)
    split = zip("qkv", weight.chunk(3, dim=1), bias.chunk(3), strict=True)
    parts = [(part, w.unflatten(1, (n, -1)).transpose(0, 1), b.unflatten(0, (n, -1))) for part, w, b in split]
    out, out_bias = pair(block.attn.c_proj)
    return Weights(
        ln1=pair(block.ln_1),
        W={part: w for part, w, _ in parts},
        b={part: b for part, _, b in parts},
        out=(out.unflatten(0, (n, -1)), out_bias),
        ln2=pair(block.ln_2),
        mlp_in=pair(block.mlp.c_fc),
        mlp_out=pair(block.mlp.c_proj),
        act=lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        final=pair(model.transformer.ln_f),
        unembed=(model.lm_head.weight.T.double(), torch.zeros(())),
    )


def norm(x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weights[0] + weights[1]


def logits_by_hand(x: torch.Tensor, s: torch.Tensor, mode: str, w: Weights) -> torch.Tensor:
    """Run the last block and the unembedding on the residual stream x [batch, pos, d_model] before it, in a path mode."""
    x, s = x.double(), s.double()
    found = PathMode.parse(mode)

    def head_input(part: str, head: int) -> torch.Tensor:
        reads = {
            "full": True,
            "skip_attn": False,
            "skip_mlp": True,
            "skip_layer": False,
            "base": False,
            "vanilla": (part, head) != (found.part, found.head),
            "only": (part, head) == (found.part, found.head),
        }[found.kind]
        return x + s if reads else x

    n_heads, _, d_head = w.W["q"].shape
    future = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
    attention = w.out[1]
    for head in range(n_heads):
        q, k, v = (norm(head_input(part, head), w.ln1) @ w.W[part][head] + w.b[part][head] for part in "qkv")
        scores = (q @ k.transpose(1, 2) / d_head**0.5).masked_fill(future, -torch.inf)
        attention = attention + scores.softmax(-1) @ v @ w.out[0][head]
    mlp_reads = {"skip_mlp": x, "skip_layer": x, "base": x}.get(found.kind, x + s) + attention
    hidden = w.act(norm(mlp_reads, w.ln2) @ w.mlp_in[0] + w.mlp_in[1])
    mlp = hidden @ w.mlp_out[0] + w.mlp_out[1]
    carried = x if found.kind == "base" else x + s
    return norm(carried + attention + mlp, w.final) @ w.unembed[0] + w.unembed[1]

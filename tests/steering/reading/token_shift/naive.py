"""Token shifts one row, one position and one token of the vocabulary at a time."""

import math
from typing import Any

import torch

from sae_lens_ext.language_model import hooked
from sae_lens_ext.steering.sequences import Sequences


def naive_shifts(
    model: Any, hook_name: str, vector: torch.Tensor, sequences: Sequences
) -> list[dict[str, Any]]:
    """Measure `blocks.l` + vector at all positions; a line for each generated token, by row and then by offset."""
    lines: list[dict[str, Any]] = []
    for row, (ids, n_prompt) in enumerate(zip(sequences.tokens, sequences.prompt_lengths, strict=True)):
        with torch.no_grad():
            base = model(ids[None], return_type="logits")[0].double()
            with hooked(model, {hook_name: lambda h: h + vector}):
                steered = model(ids[None], return_type="logits")[0].double()
        for position in range(n_prompt, len(ids)):
            p, q = (_softmax(logits[position - 1].tolist()) for logits in (base, steered))
            delta = [b - a for a, b in zip(p, q, strict=True)]
            token, boosted = int(ids[position]), max(range(len(p)), key=lambda v: delta[v])
            lines.append(
                {
                    "row": row,
                    "offset": position - n_prompt,
                    "token": token,
                    "token_delta": delta[token],
                    "token_p_base": p[token],
                    "boosted": boosted,
                    "boosted_delta": delta[boosted],
                    "boosted_p_base": p[boosted],
                    "base_top": max(range(len(p)), key=lambda v: p[v]),
                    "kl": sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)),
                    "total_variation": sum(map(abs, delta)) / 2,
                }
            )
    return lines


def _softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return [weight / sum(weights) for weight in weights]

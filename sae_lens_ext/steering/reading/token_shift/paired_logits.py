"""What a model predicts of the same tokens, as it is and steered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_ext.language_model import evaluating
from sae_lens_ext.steering.intervention import Intervention
from sae_lens_ext.steering.reading.predictions import logits_at, predicting
from sae_lens_ext.steering.sequences import Sequences, padded_batches
from sae_lens_ext.steering.steer import steer
from sae_lens_ext.steering.steered_tokens import acting_on, depends_on_prompt, require_none_idle


@dataclass(frozen=True, eq=False)
class PairedLogits:
    """Logits at the positions of one batch that predict a generated token, by row and then by position."""

    row: torch.Tensor
    """The sequence of each, [n], int64, on the CPU."""
    offset: torch.Tensor
    """Which of its generated tokens is predicted, 0 the first, [n], int64, on the CPU."""
    token: torch.Tensor
    """The id of that token, [n], int64, on the CPU."""
    base: torch.Tensor
    """Logits of the model as it is, [n, d_vocab], in the model's precision."""
    steered: torch.Tensor
    """Logits of the steered model, [n, d_vocab]."""


@torch.no_grad()
def paired_logits(
    model: Any, intervention: Intervention, sequences: Sequences, wanted: Sequence[int], batch_size: int
) -> Iterator[PairedLogits]:
    """Run a model on sequences, as it is and steered, and give the logits that predict generated tokens.

    Prompts are steered as prompts and the rest as generated, as when it was: where an intervention has phases, or counts its positions from the
    end of the prompt, only sequences with equally long prompts go together.

    Args:
        model: A model with hooks.
        intervention: What steers it; positions are no masks.
        sequences: What it may read.
        wanted: Which of them it reads; each with a token after its prompt.
        batch_size: Sequences per forward pass, at most.

    Yields:
        The logits of each batch.

    Raises:
        ValueError: There is NaN or infinity in the logits; or as for `steer`.
        RuntimeError: A part of the intervention has acted on no token of any sequence; or as for `steer`.
    """
    device = next(model.parameters()).device
    same_prompts = any(map(depends_on_prompt, intervention.parts))
    idle = list(intervention.parts)
    batches = padded_batches(sequences, batch_size, device, rows=wanted, same_prompt_length=same_prompts)
    for rows, tokens, real in batches:
        prompt = real[:, : sequences.prompt_lengths[rows[0]]].cpu() if same_prompts else None
        acting = acting_on(intervention.parts, real.cpu(), prompt)
        idle = [part for part in idle if not any(part is one for one in acting)]
        where = predicting(sequences, rows)
        with evaluating(model):
            base = logits_at(model, tokens, where, rows, "model")
            if acting:
                with steer(model, *acting, attention_mask=prompt):
                    steered = logits_at(model, tokens, where, rows, "steered model")
            else:
                steered = base
        row = torch.tensor(rows)[where[0]]
        offset = where[1] + 1 - torch.tensor(sequences.prompt_lengths)[row]
        yield PairedLogits(row, offset, tokens.cpu()[where[0], where[1] + 1], base, steered)
    require_none_idle(idle, len(wanted))

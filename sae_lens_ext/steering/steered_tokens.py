"""Which tokens of a batch an intervention acts on, and what must be known for it."""

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_ext.steering.intervention import Intervention, SingleIntervention
from sae_lens_ext.steering.token_pass import TokenPass
from sae_lens_ext.steering.token_selection import PHASES


def require_no_masks(caller: str, intervention: Intervention) -> None:
    """Raise ValueError if an intervention has positions as a mask, whose rows are not those of the batches that run."""
    for part in intervention.parts:
        if isinstance(part.tokens.positions, torch.Tensor):
            raise ValueError(
                f"{caller} was given {part}, with positions as a mask [batch, prompt], but the sequences are put into batches by their lengths. Give "
                "positions as numbers or a slice."
            )


def depends_on_prompt(part: SingleIntervention) -> bool:
    """Tell whether it depends on where the prompt ends which tokens an intervention acts on."""
    positions: Any = part.tokens.positions
    if isinstance(positions, slice):
        counted = [end for end in (positions.start, positions.stop) if end is not None]
    else:
        counted = [positions] if isinstance(positions, int) else list(positions or ())
    return set(part.tokens.phases) != set(PHASES) or any(position < 0 for position in counted)


def acting_on(
    parts: Sequence[SingleIntervention], real: torch.Tensor, prompt: torch.Tensor | None
) -> list[SingleIntervention]:
    """Give the interventions that act on a token of a batch; `steer` refuses the others."""
    batch, n_tokens = real.shape
    seen = TokenPass(0, n_tokens, n_tokens if prompt is None else prompt.shape[1], prompt)
    return [part for part in parts if bool((part.tokens.mask(seen, batch) & real).any())]


def require_none_idle(idle: Sequence[SingleIntervention], n_sequences: int) -> None:
    """Raise RuntimeError if there is an intervention that acted on no token of any sequence."""
    if idle:
        raise RuntimeError(
            f"{idle[0]} acted on no token of the {n_sequences} sequences: its positions or phases were never reached. Give others: positions count from 0 in the "
            "whole sequence, negative ones from the end of the prompt."
        )

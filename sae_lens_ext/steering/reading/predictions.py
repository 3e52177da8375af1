"""What a model predicts of the generated tokens of a batch."""

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_ext.steering.sequences import Sequences


def predicting(sequences: Sequences, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give where in a batch a generated token is predicted: rows of the batch and positions, [n] each."""
    found = [
        (i, position)
        for i, row in enumerate(rows)
        for position in range(sequences.prompt_lengths[row] - 1, len(sequences.tokens[row]) - 1)
    ]
    at, position = torch.tensor(found).unbind(dim=1)
    return at, position


def logits_at(
    model: Any,
    tokens: torch.Tensor,
    where: tuple[torch.Tensor, torch.Tensor],
    rows: Sequence[int],
    name: str,
) -> torch.Tensor:
    """Give the logits [n, d_vocab] at some positions of a batch.

    Raises:
        ValueError: There is NaN or infinity among them; −∞ alone is a token that cannot come.
    """
    logits = model(tokens, return_type="logits")
    found = logits[where[0].to(logits.device), where[1].to(logits.device)]
    highest = found.max(dim=1).values  # NaN if there is one
    bad = ~torch.isfinite(highest).cpu()
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"The {name} gives NaN or infinity as logits in row {rows[int(where[0][first])]}, so that nothing can be measured. Look at the precision: "
            "float16 overflows where bfloat16 does not; or steer less strongly."
        )
    return found

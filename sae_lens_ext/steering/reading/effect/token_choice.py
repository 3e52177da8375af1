"""Which tokens of a sequence a mean over tokens counts."""

from typing import Literal, get_args

import torch

from sae_lens_ext.steering.sequences import Sequences

TokenChoice = Literal["all", "generated"]
"""All tokens but the first of each sequence, or those after its prompt alone; padding never."""


def require_token_choice(caller: str, tokens: str) -> None:
    """Raise ValueError unless it is one of `TokenChoice`."""
    if tokens not in get_args(TokenChoice):
        raise ValueError(
            f"{caller} was given tokens = {tokens!r}. Give 'all', every token but the first of each sequence, or 'generated', those after the "
            "prompt."
        )


def sequences_that_count(caller: str, sequences: Sequences, tokens: TokenChoice) -> Sequences:
    """Give the sequences that have a token that counts.

    Args:
        caller: Function they were given to, for messages.
        sequences: The sequences.
        tokens: Which of their tokens count.

    Raises:
        ValueError: There is no such sequence, or no such choice.
    """
    require_token_choice(caller, tokens)
    kept = [
        row for row in range(len(sequences)) if len(sequences.tokens[row]) > _first(sequences, row, tokens)
    ]
    if not kept:
        why = "each is one token long" if tokens == "all" else "nothing was generated after their prompts"
        raise ValueError(
            f"{caller} was given {len(sequences)} sequences in which no token counts: {why}. Give longer ones"
            + (", or tokens='all'." if tokens == "generated" else ".")
        )
    return Sequences(
        tuple(sequences.tokens[row] for row in kept), tuple(sequences.prompt_lengths[row] for row in kept)
    )


def n_counted(sequences: Sequences, tokens: TokenChoice) -> int:
    """Count the tokens that count."""
    return sum(len(one) - _first(sequences, row, tokens) for row, one in enumerate(sequences.tokens))


def counted(sequences: Sequences, rows: list[int], real: torch.Tensor, tokens: TokenChoice) -> torch.Tensor:
    """Tell which tokens of a batch count.

    Args:
        sequences: The sequences.
        rows: Which of them the batch holds.
        real: Which of its tokens are no padding, [batch, pos], bool.
        tokens: The choice.

    Returns:
        [batch, pos], bool, on the device of `real`.
    """
    first = torch.tensor([[_first(sequences, row, tokens)] for row in rows], device=real.device)
    return real & (torch.arange(real.shape[1], device=real.device)[None] >= first)


def _first(sequences: Sequences, row: int, tokens: TokenChoice) -> int:
    """Give the position of a sequence's first token that counts.

    The first token of a text is left out because a model keeps no content there: where others have a norm of 150, it may have one of 20,000.
    """
    return 1 if tokens == "all" else sequences.prompt_lengths[row]

"""Which tokens of a sequence one forward pass sees."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class TokenPass:
    """One forward pass over columns first .. first + n_tokens - 1 of a batch of sequences."""

    first: int
    """Column of the first token: how many tokens the key-value cache holds."""
    n_tokens: int
    """How many tokens the pass sees; 1 in most passes of generation with a cache."""
    prompt: int | None
    """Columns of the prompt; what comes after is generated. None if nobody said where the prompt ends: then all is prompt."""
    real: torch.Tensor | None = None
    """Which columns hold tokens and which padding, [batch, width], bool, on the CPU; columns after it are real. None: all are."""

    def columns(self) -> torch.Tensor:
        """Give the columns of the pass, [1, n_tokens]."""
        return torch.arange(self.first, self.first + self.n_tokens)[None]

    def touchable(self) -> torch.Tensor:
        """Tell real tokens from padding, [batch or 1, n_tokens], bool."""
        if self.real is None:
            return torch.ones(1, self.n_tokens, dtype=torch.bool)
        known = self.real[:, self.first : self.first + self.n_tokens]
        after = torch.ones(len(known), self.n_tokens - known.shape[1], dtype=torch.bool)
        return torch.cat([known, after], dim=1)

    def positions(self) -> torch.Tensor:
        """Give each token's position among the real tokens of its row, [batch or 1, n_tokens]; of padding it means nothing."""
        if self.real is None:
            return self.columns()
        before = self.real[:, : self.first].sum(dim=1, keepdim=True) + max(0, self.first - self.real.shape[1])
        return before + self.touchable().cumsum(dim=1) - 1

    def in_prompt(self) -> torch.Tensor:
        """Tell the prompt from what is generated, [1, n_tokens], bool."""
        columns = self.columns()
        return torch.ones_like(columns, dtype=torch.bool) if self.prompt is None else columns < self.prompt

    def prompt_lengths(self) -> torch.Tensor:
        """Count the real tokens of each row's prompt, [batch or 1, 1].

        Raises:
            ValueError: Nobody said where the prompt ends.
        """
        if self.prompt is None:
            raise ValueError(
                "A forward pass goes on from a key-value cache outside generate(), so it is not known where the prompt ends, from "
                "which negative positions count. Give positions from 0 on, or steer(..., attention_mask=mask) with the mask "
                "[batch, prompt] of the prompt, whose width says it."
            )
        if self.real is None:
            return torch.tensor([[self.prompt]])
        width = self.real.shape[1]
        return self.real[:, : self.prompt].sum(dim=1, keepdim=True) + max(0, self.prompt - width)

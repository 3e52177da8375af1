"""One call of generate(): where its prompt ends, and whether its passes go through the sequence token by token."""

from dataclasses import dataclass

import torch


@dataclass(eq=False)
class Generation:
    """What is known of a generation that is under way."""

    prompt: int | None = None
    """Columns of the prompt; None before the first pass, unless the caller knows."""
    real: torch.Tensor | None = None
    """Which columns of the prompt are tokens and which padding, as the model was told, [batch, prompt], bool; None: all."""
    seen: int = 0
    """Columns that passes have seen so far."""
    _now: int = 0

    def begin_pass(self, first: int, shape: tuple[int, int] | None, real: torch.Tensor | None) -> None:
        """Take note of a pass.

        Args:
            first: Column of its first token.
            shape: Its rows and tokens; None if nobody knows.
            real: Which columns up to its last are tokens, [batch, first + tokens], bool; None: all.

        Raises:
            NotImplementedError: The passes do not go through the sequence token by token.
        """
        n_tokens = 0 if shape is None else shape[1]
        total = first + n_tokens
        if self.seen == 0:
            goes_on = n_tokens > 0 and self.prompt in (None, total)
            self.prompt, self.real = total, real
        else:
            goes_on = n_tokens > 0 and (first == self.seen or (first == 0 and n_tokens == self.seen + 1))
        if not goes_on:
            raise NotImplementedError(
                f"This way to generate runs the model over tokens {first} to {total - 1} after it has seen {self.seen}, not token by token: the "
                "prompt in chunks, a second text for contrast, or an assistant that guesses ahead. What is prompt and what is generated cannot be told then. "
                "Use model.generate(), or hf_generate() without these options."
            )
        self._now = total

    def end_pass(self) -> None:
        """Take note that the pass ended well."""
        self.seen = self._now

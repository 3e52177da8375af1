"""The contexts in which latents fire most: how they are kept while texts are read, and what one is."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Context:
    """A place where a latent fires, and the tokens around it."""

    text: str
    """Name of the text it is from."""
    tokens: tuple[str, ...]
    """The tokens as text, each decoded by itself; bytes that are no whole character read as U+FFFD."""
    activations: tuple[float, ...]
    """The latent's activation at each token; 0 at special tokens, which do not count."""
    peak: int
    """Which of these tokens has the largest activation of the whole packed context, the first of equals."""


class TopContexts:
    """For each of some latents the n contexts with its largest activations, one each; earlier ones win ties.

    Args:
        n_latents: How many latents.
        n: How many contexts of each.
        device: Where the activations will be.
    """

    def __init__(self, n_latents: int, n: int, device: torch.device) -> None:
        self.n = n
        self.activation = torch.zeros(n_latents, n, device=device)
        """Largest activation in the context, descending, [n_latents, n]; 0 where there is none."""
        self.context = torch.full((n_latents, n), -1, device=device)
        """Number of the context, [n_latents, n]; −1 where there is none."""
        self.position = torch.full((n_latents, n), -1, device=device)
        """Where in the context the largest activation is, the first such token, [n_latents, n]."""

    def add(self, acts: torch.Tensor, first: int) -> None:
        """Take in the activations [batch, pos, n_latents] of the contexts numbered from `first`."""
        position = acts.argmax(dim=1)
        activation = acts.gather(1, position[:, None])[:, 0]
        context = torch.arange(first, first + len(acts), device=acts.device)[:, None].expand_as(position)
        joined = torch.cat([self.activation, activation.T], dim=1)
        best = joined.sort(dim=1, descending=True, stable=True).indices[:, : self.n]
        self.activation = joined.gather(1, best)
        self.context = torch.cat([self.context, context.T], dim=1).gather(1, best)
        self.position = torch.cat([self.position, position.T], dim=1).gather(1, best)

    def of(self, latent: int) -> list[tuple[int, int, float]]:
        """Give a latent's contexts: number, position of the largest activation, that activation."""
        columns = zip(
            self.context[latent].tolist(),
            self.position[latent].tolist(),
            self.activation[latent].tolist(),
            strict=True,
        )
        return [found for found in columns if found[2] > 0]


def token_text(tokenizer: Any, token: int) -> str:
    """Give a token as text, decoded by itself, with the space that it begins with; `<id>` if the tokenizer does not know it, as of a padded vocabulary."""
    piece: str | None = tokenizer.convert_ids_to_tokens(token)
    if piece is None:
        return f"<{token}>"
    text: str = tokenizer.decode([token])
    # Tokenizers of SentencePiece drop the space with which a text begins, and here every token begins one.
    if piece.startswith("▁") and not text.startswith(" "):
        return " " + text
    return text

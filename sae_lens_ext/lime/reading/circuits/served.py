"""The tokens that circuits serve: of the vocabulary, over their occurrences, and single positions."""

from typing import Any, Literal

import torch

from sae_lens_ext.analysis.flow.top_activations.running import TopWindows, window_starts
from sae_lens_ext.analysis.top_contexts import Context, token_text
from sae_lens_ext.lime.reading.circuits.circuit import ServedToken
from sae_lens_ext.lime.reading.circuits.shares import along_routed, shares_of

TokensBy = Literal["share", "norm"]
CONTEXT_NAME = "texts"


def strongest_sources(shares: torch.Tensor, k: int, *, own_layer: bool) -> list[tuple[int, int, int]]:
    """Give the k sources with the largest |share| of each target head, (target head, source layer, source head), without those of share 0.

    Args:
        shares: Of one target layer, [target head, source layer, source head].
        k: How many, at most; of equal ones the earlier.
        own_layer: Whether the heads of the layer itself are among them.
    """
    candidates = shares if own_layer else shares[:, :-1]
    found: list[tuple[int, int, int]] = []
    for head, own in enumerate(candidates):
        order = own.flatten().abs().sort(descending=True, stable=True).indices[:k].tolist()
        found += [(head, *divmod(i, own.shape[1])) for i in order if own.flatten()[i] != 0]  # pyright: ignore[reportArgumentType]
    return found


class ServedTokens:
    """Collects, for some circuits of one target layer, how much of each token they serve.

    Args:
        weights: R of the layer, [target head, source layer, source head].
        shares: Value shares, of the same shape: a circuit serves the tokens at which it does what it does on the whole.
        circuits: (target head, source layer, source head) each.
        vocabulary: Ids of the tokens that occur and count, ascending, [n].
        by: What is collected, the signed share in the routed value or the size of the contribution.
        n_contexts: Single positions kept of each circuit.
        window: Tokens shown around each; not more than a sequence has.
        device: Where the values are.
    """

    def __init__(
        self,
        weights: torch.Tensor,
        shares: torch.Tensor,
        circuits: list[tuple[int, int, int]],
        vocabulary: torch.Tensor,
        *,
        by: TokensBy,
        n_contexts: int,
        window: int,
        device: torch.device,
    ) -> None:
        self.circuits, self.vocabulary, self.by = circuits, vocabulary, by
        self.index = tuple(torch.tensor(column, device=device) for column in zip(*circuits, strict=True))
        self.weights = weights.to(device)
        self.signs = shares[tuple(zip(*circuits, strict=True))].sign().to(device, torch.float32)
        self.sums = torch.zeros(len(vocabulary), len(circuits), dtype=torch.float64)
        self.sizes = torch.zeros_like(self.sums)
        self.top = TopWindows(len(circuits), n_contexts, window, device)

    def add(self, values: torch.Tensor, tokens: torch.Tensor, counted: torch.Tensor, first: int) -> None:
        """Take in a batch.

        Args:
            values: Un-routed values of the layers up to the target, [batch, pos, source layer, source head, d_head].
            tokens: Token ids [batch, pos], on the CPU.
            counted: Which tokens count, [batch, pos], on the CPU.
            first: Number of the first sequence.
        """
        head, source_layer, source_head = self.index
        flat = values.flatten(0, 1)
        if self.by == "share":
            along, square = along_routed(flat, self.weights)
            added, size = along[:, head, source_layer, source_head] * self.signs, square[:, head]
            served = shares_of(along, square)[:, head, source_layer, source_head] * self.signs
        else:
            served = added = flat.norm(dim=3)[:, source_layer, source_head] * self.weights[self.index].abs()
            size = torch.ones_like(served)
        rows = torch.searchsorted(self.vocabulary, tokens[counted])
        self.sums.index_add_(0, rows, added.cpu()[counted.flatten()].double())
        self.sizes.index_add_(0, rows, size.cpu()[counted.flatten()].double())
        acts = served.reshape(*tokens.shape, -1).masked_fill(~counted.to(served.device)[..., None], 0.0)
        self.top.add(acts, first)

    def tokens(
        self, i: int, counts: torch.Tensor, n: int, min_count: int, tokenizer: Any
    ) -> tuple[ServedToken, ...]:
        """Give the n tokens that circuit i serves most.

        Args:
            i: Number of the circuit.
            counts: Occurrences of each token of the vocabulary, [n].
            n: How many, at most; of equal ones the smaller id.
            min_count: Tokens that occur less often are left out.
            tokenizer: To decode with, or None.
        """
        means = (self.sums[:, i] / self.sizes[:, i].clamp(min=torch.finfo(torch.float64).tiny)).masked_fill(
            counts < min_count, 0.0
        )
        order = means.sort(descending=True, stable=True).indices[:n].tolist()
        sign = self._sign(i)
        return tuple(
            ServedToken(
                text_of(tokenizer, int(self.vocabulary[row])),
                int(self.vocabulary[row]),
                sign * float(means[row]),
                int(counts[row]),
            )
            for row in order
            if means[row] > 0
        )

    def contexts(self, i: int, sequences: torch.Tensor, tokenizer: Any) -> tuple[Context, ...]:
        """Give the positions that circuit i serves most, and the tokens around them; `sequences` are all token ids, [n, pos]."""
        found: list[Context] = []
        for rank, (number, peak, _) in enumerate(self.top.top.of(i)):
            start = int(window_starts(torch.tensor(peak), self.top.width, sequences.shape[1]))
            ids = sequences[number, start : start + self.top.width].tolist()
            served = self.top.windows[i, rank].double() * self._sign(i)
            found.append(
                Context(
                    text=CONTEXT_NAME,
                    tokens=tuple(text_of(tokenizer, token) for token in ids),
                    activations=tuple(served.tolist()),
                    peak=peak - start,
                )
            )
        return tuple(found)

    def _sign(self, i: int) -> float:
        return float(self.signs[i]) if self.by == "share" else 1.0


def text_of(tokenizer: Any, token: int) -> str:
    """Give a token as text; `<id>` without a tokenizer."""
    return f"<{token}>" if tokenizer is None else token_text(tokenizer, token)

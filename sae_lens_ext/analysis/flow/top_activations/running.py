"""The largest activations so far: of contexts with the tokens around, and of tokens of the vocabulary."""

import torch

from sae_lens_ext.analysis.top_contexts import TopContexts


class TopWindows:
    """For each of some features its strongest contexts, one entry each, and the activations around each peak.

    Args:
        n_features: How many features.
        n: How many contexts of each.
        window: Tokens kept of each context; not more than it has.
        device: Where the activations will be.
    """

    def __init__(self, n_features: int, n: int, window: int, device: torch.device) -> None:
        self.width = window
        self.top = TopContexts(n_features, n, device)
        self.windows = torch.zeros(n_features, n, window, device=device)
        """Activations around each peak, [n_features, n, window]."""

    def add(self, acts: torch.Tensor, first: int) -> None:
        """Take in the activations [batch, pos, n_features] of the contexts numbered from `first`."""
        before = self.top.context
        self.top.add(acts, first)
        changed = (self.top.context != before).any(dim=1).nonzero()[:, 0]
        context, before = self.top.context[changed], before[changed]
        # A context that was there stays itself, whichever rank it has now.
        same = (context[:, :, None] == before[:, None, :]) & (context >= 0)[:, :, None]
        rank_before = same.int().argmax(dim=2)[:, :, None].expand(-1, -1, self.width)
        moved = self.windows[changed].gather(1, rank_before)
        row, rank = (context >= first).nonzero(as_tuple=True)
        position = window_starts(self.top.position[changed][row, rank], self.width, acts.shape[1])[:, None]
        position = position + torch.arange(self.width, device=acts.device)
        number = (context[row, rank] - first)[:, None]
        moved[row, rank] = acts[number, position, changed[row][:, None]].to(moved.dtype)
        self.windows[changed] = moved


def window_starts(peaks: torch.Tensor, window: int, context_size: int) -> torch.Tensor:
    """Give where windows begin that have their peak in the middle, as far as the context allows.

    Args:
        peaks: Positions in the context, of any shape.
        window: Tokens of a window.
        context_size: Tokens of a context.
    """
    return (peaks - window // 2).clamp(0, context_size - window)


class TopTokens:
    """For each of some features the n tokens of the vocabulary with its largest activations; of equals the smaller id.

    That is exact though only n are kept: a token that is not among them has n others before it, and these only grow.

    Args:
        n_features: How many features.
        n: How many tokens of each.
        device: Where the activations will be.
    """

    def __init__(self, n_features: int, n: int, device: torch.device) -> None:
        self.n = n
        self.activation = torch.zeros(n_features, n, device=device)
        """Largest activation at any occurrence of the token, descending, [n_features, n]; 0 where there is none."""
        self.token = torch.full((n_features, n), -1, device=device)
        """Id of the token, [n_features, n]; −1 where there is none."""

    def add(self, acts: torch.Tensor, tokens: torch.Tensor) -> None:
        """Take in activations [batch, pos, n_features] at tokens [batch, pos]."""
        enough = (acts > 0) & (
            acts >= self.activation[:, -1]
        )  # fewer and fewer, so that most batches cost little
        row, position, feature = enough.nonzero(as_tuple=True)
        touched = feature.unique()
        known = self.token[touched]
        rank = torch.arange(len(touched), device=acts.device)[:, None].expand_as(known)
        row_of = torch.full((len(self.token),), -1, device=acts.device)
        row_of[touched] = torch.arange(len(touched), device=acts.device)
        rows = torch.cat([rank[known >= 0], row_of[feature]])
        ids = torch.cat([known[known >= 0], tokens[row, position]])
        values = torch.cat([self.activation[touched][known >= 0], acts[enough].to(self.activation.dtype)])
        rows, ids, values = _largest_of_each(rows, ids, values)
        order = values.sort(descending=True, stable=True).indices
        order = order[rows[order].sort(stable=True).indices]
        rows, ids, values = rows[order], ids[order], values[order]
        counts = torch.bincount(rows, minlength=len(touched))
        rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        kept = rank < self.n
        self.token[touched] = -1
        self.activation[touched] = 0.0
        self.token[touched[rows[kept]], rank[kept]] = ids[kept]
        self.activation[touched[rows[kept]], rank[kept]] = values[kept]


def _largest_of_each(
    rows: torch.Tensor, ids: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep the largest value of every pair of row and id, [n] each, ordered by row and then by id."""
    n_ids = int(ids.max()) + 1 if len(ids) else 1
    pairs, group = (rows * n_ids + ids).unique(return_inverse=True)  # one number sorts far faster than a pair
    largest = values.new_zeros(len(pairs)).scatter_reduce_(0, group, values, "amax")
    return pairs // n_ids, pairs % n_ids, largest

"""What each source head contributes to the keys or values that a router makes."""

import torch


def source_shares(buffers: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split routed vectors into the shares of their sources.

    For target head h and source i = (ℓ′, h′) the contribution is c_i = R_{h,i} V_i, the routed vector Ṽ_h = Σ_i c_i, and the share
    ⟨c_i, Ṽ_h⟩ / ‖Ṽ_h‖². It is signed: negative where the source works against what the others make. The shares of a token sum to 1.

    Args:
        buffers: Keys or values of the layers up to the target, [n_tokens, source layer, source head, d_head].
        weights: R, [target head, source layer, source head].

    Returns:
        The shares, [n_tokens, target head, source layer, source head], 0 where the routed vector is 0; and where it is not 0,
        bool [n_tokens, target head].
    """
    n_targets = len(weights)
    flat = buffers.flatten(1, 2)
    routed = torch.einsum("hi,nid->nhd", weights.flatten(start_dim=1), flat)
    along = torch.einsum("nid,nhd->nhi", flat, routed) * weights.flatten(start_dim=1)
    square = routed.square().sum(dim=2)
    there = square > 0
    shares = along / torch.where(there, square, torch.ones_like(square))[..., None]
    shares = shares.masked_fill(~there[..., None], 0.0)
    return shares.reshape(len(buffers), n_targets, *weights.shape[1:]), there


class MeanShares:
    """Means of the shares over all tokens, for one layer's keys or values.

    Args:
        weights: R, [target head, source layer, source head].
    """

    def __init__(self, weights: torch.Tensor) -> None:
        self.sums = torch.zeros(weights.shape, dtype=torch.float64)
        self.counts = torch.zeros(len(weights), dtype=torch.float64)

    def add(self, shares: torch.Tensor, there: torch.Tensor) -> None:
        """Take in what `source_shares` gives."""
        self.sums += shares.cpu().sum(dim=0, dtype=torch.float64)
        self.counts += there.cpu().sum(dim=0)

    def mean(self) -> torch.Tensor:
        """Give the means over the tokens whose routed vector is not 0, [target head, source layer, source head]; 0 of a head that has none."""
        return self.sums / self.counts.clamp(min=1)[:, None, None]

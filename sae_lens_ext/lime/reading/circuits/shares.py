"""What each source head contributes to the keys or values that a router makes."""

import torch


def along_routed(buffers: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Project what each source contributes on what all make together.

    For target head h and source i = (ℓ′, h′) the contribution is c_i = R_{h,i} V_i, and the routed vector Ṽ_h = Σ_i c_i.

    Args:
        buffers: Keys or values of the layers up to the target, [n_tokens, source layer, source head, d_head].
        weights: R, [target head, source layer, source head].

    Returns:
        ⟨c_i, Ṽ_h⟩, [n_tokens, target head, source layer, source head], negative where the source works against what the others make; and ‖Ṽ_h‖²,
        [n_tokens, target head], which is its sum over sources.
    """
    flat = buffers.flatten(1, 2)
    routed = torch.einsum("hi,nid->nhd", weights.flatten(start_dim=1), flat)
    along = torch.einsum("nid,nhd->nhi", flat, routed) * weights.flatten(start_dim=1)
    return along.reshape(len(buffers), *weights.shape), routed.square().sum(dim=2)


def shares_of(along: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    """Divide what lies along the routed vector by its square, which has two dimensions less; 0 where that is 0."""
    there = square > 0
    shares = along / torch.where(there, square, torch.ones_like(square))[..., None, None]
    return shares.masked_fill(~there[..., None, None], 0.0)


class TextShares:
    """The shares of sources in what one layer's router makes of a whole text: Σ⟨c, Ṽ⟩ / Σ‖Ṽ‖² over its tokens.

    A mean of the tokens' own shares would be that of the few at which contributions nearly cancel.

    Args:
        weights: R, [target head, source layer, source head].
    """

    def __init__(self, weights: torch.Tensor) -> None:
        self.along = torch.zeros(weights.shape, dtype=torch.float64)
        self.square = torch.zeros(len(weights), dtype=torch.float64)

    def add(self, along: torch.Tensor, square: torch.Tensor) -> None:
        """Take in what `along_routed` gives."""
        self.along += along.cpu().sum(dim=0, dtype=torch.float64)
        self.square += square.cpu().sum(dim=0, dtype=torch.float64)

    def shares(self) -> torch.Tensor:
        """Give the shares, [target head, source layer, source head]; 0 of a head whose routed vectors are all 0."""
        return shares_of(self.along, self.square)

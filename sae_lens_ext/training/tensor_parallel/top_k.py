"""The k best latents of each token, of all ranks' latents: each rank names its own best, and learns which of them are among the best of all.

A latent that is among the k best of all is among the k best of its rank, so k candidates a rank are enough.
"""

import torch

from sae_lens_ext.ops.chunks import chunks
from sae_lens_ext.ranks import Ranks


def kept_candidates(scores: torch.Tensor, k: int, ranks: Ranks, what: str) -> torch.Tensor:
    """Tell which of this rank's candidates are among the k best of all ranks' candidates.

    Between equals the lower rank goes first, and on one rank the candidate that comes first. With the latents divided in
    their order, and each rank's candidates in descending order with the lower index first between equals (as `topk_encode`
    gives them), this is the lower latent of the whole dictionary.

    Args:
        scores: What each token's candidates are ranked by, [B, C]; C is the same on every rank. A slot that holds no candidate has −∞.
        k: How many each token keeps in all, at most as many as it has candidates on all ranks.
        ranks: Who they are.
        what: For an error.

    Returns:
        Bool, [B, C]; all of a token's candidates where NaN is among them, so that the loss shows it.

    Raises:
        RankError: A rank does not answer.
    """
    n_candidates = ranks.size * scores.shape[1]
    if k == n_candidates:
        return torch.ones_like(scores, dtype=torch.bool)
    kept = torch.empty_like(scores, dtype=torch.bool)
    # Where C is all that a rank has, the candidates of all ranks are all there is: a few tokens at a time, then.
    for tokens in chunks(len(scores), n_candidates, scores.device):
        of_ranks = ranks.tell.gather(scores[tokens], what)  # [N, tokens, C]
        of_all = of_ranks.transpose(0, 1).flatten(1)
        worst_kept = of_all.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
        # What equals the worst that is kept fills the places left: those of lower ranks first, then as they come.
        places = k - (of_all > worst_kept).sum(dim=1, keepdim=True)
        equal = of_all == worst_kept
        own = equal.unflatten(1, (ranks.size, -1))[:, ranks.rank]
        place = equal[:, : ranks.rank * scores.shape[1]].sum(dim=1, keepdim=True) + own.cumsum(dim=1)
        kept[tokens] = (scores[tokens] > worst_kept) | (own & (place <= places)) | worst_kept.isnan()
    return kept

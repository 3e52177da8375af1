"""BatchTopK over the ranks of a job: the k·B largest latents of the whole batch, wherever its rows are."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from sae_lens.saes.batchtopk_sae import BatchTopK, BatchTopKTrainingSAE
from sae_lens.saes.sae import TrainingSAE
from typing_extensions import override

from sae_lens_ext.ranks import Ranks


class BatchTopKOverRanks(BatchTopK):
    """SAELens' BatchTopK among the latents of all ranks' rows.

    The k·B largest of the whole batch are among each rank's k·B largest: these values are gathered, and the smallest that is in is found.
    Of equals at that value, those of lower ranks and lower positions are in first, so that exactly k·B are, as in one process.

    Args:
        k: Latents per row, on average over the whole batch.
        ranks: Who has the rows, equally many each.
    """

    def __init__(self, k: float, ranks: Ranks) -> None:
        super().__init__(k)
        self._ranks = ranks

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the largest latents of the whole batch, and set the others to zero.

        Args:
            x: This rank's pre-activations, [rows, d_sae].

        Returns:
            The same shape.
        """
        if not self.training:  # an evaluation runs on one rank alone
            return super().forward(x)
        acts = x.relu()
        flat = acts.detach().flatten()
        n_kept = int(self.k * acts.shape[:-1].numel() * self._ranks.size)
        own = flat.topk(min(n_kept, len(flat))).values
        candidates = self._ranks.tell.gather(own, "choosing the batch's largest latents")
        threshold = candidates.flatten().topk(n_kept).values[-1] if n_kept else flat.new_tensor(torch.inf)
        kept = flat > threshold
        # What is at the threshold: each rank fills the places that those before it have left.
        at_threshold = (candidates == threshold).sum(dim=1)
        places = n_kept - (candidates > threshold).sum() - at_threshold[: self._ranks.rank].sum()
        ties = (flat == threshold).nonzero().flatten()
        kept[ties[: max(0, int(places))]] = True
        return acts * kept.reshape(acts.shape)


@contextmanager
def batch_topk_over_ranks(sae: TrainingSAE[Any], ranks: Ranks) -> Generator[None, None, None]:
    """Let an SAE that chooses latents by batch choose them over all ranks while the block lasts; other SAEs are left alone."""
    if ranks.size == 1 or not isinstance(sae, BatchTopKTrainingSAE):
        yield
        return
    alone = sae.activation_fn

    def update_topk_threshold(acts: torch.Tensor) -> None:
        smallest = torch.where(acts > 0, acts.detach(), torch.inf).min().float()
        ranks.tell.reduce_(smallest, "min", "finding the smallest latent kept")
        if torch.isfinite(smallest):
            BatchTopKTrainingSAE.update_topk_threshold(sae, smallest.reshape(1))

    sae.activation_fn = BatchTopKOverRanks(sae.cfg.k, ranks)
    sae.update_topk_threshold = update_topk_threshold  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sae.activation_fn = alone
        del sae.update_topk_threshold

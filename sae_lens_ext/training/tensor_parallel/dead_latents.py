"""The dead-latent loss over divided latents: the k best dead latents of all ranks rebuild the error, a few tokens at a time.

The specification is `ops.dead_latents.dead_latent_loss_naive`, given the dead latents of all ranks.
"""

import torch

from sae_lens_ext.architectures.ranked_training import DeadLatents
from sae_lens_ext.ops.chunks import chunks
from sae_lens_ext.ops.sum_of_chunks import sum_of_chunks
from sae_lens_ext.ranks import Ranks
from sae_lens_ext.training.tensor_parallel.operators import sum_over_ranks
from sae_lens_ext.training.tensor_parallel.top_k import kept_candidates


def divided_dead_latent_loss(
    dead: DeadLatents, x: torch.Tensor, error: torch.Tensor, k: int, n_widest: int, ranks: Ranks
) -> torch.Tensor:
    """Let the k best dead latents of each token, of all ranks', rebuild the error that the living ones leave.

    Args:
        dead: This rank's N dead latents, of which there may be none.
        x: Activations that the encoder reads, shape [B, d]; no gradient reaches them.
        error: x − x̂, shape [B, d]; no gradient reaches it.
        k: Dead latents used per token on all ranks together, at most as many as these have.
        n_widest: The largest N that a rank has.
        ranks: Who they are.

    Returns:
        The loss, a scalar, the same on every rank; differentiable once, in the parameters and the rows of `dead`. What these have in
        common on all ranks gets this rank's part of its gradient.

    Raises:
        RankError: A rank does not answer.
    """

    def loss_of(tokens: slice, rows: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        acts = dead.activations(x[tokens], *parameters)
        used = acts.detach() if dead.rank_scale is None else acts.detach() * dead.rank_scale
        best = used.topk(min(k, used.shape[1]), dim=1, sorted=False)
        empty = min(k, n_widest) - best.values.shape[1]
        scores = torch.nn.functional.pad(best.values, (0, empty), value=-torch.inf)
        kept = kept_candidates(scores, k, ranks, "choosing the dead latents of each token")
        kept = torch.zeros_like(acts, dtype=torch.bool).scatter(
            1, best.indices, kept[:, : best.values.shape[1]]
        )
        own = (acts * kept) @ rows
        rebuilt = sum_over_ranks(
            own.to(torch.promote_types(own.dtype, torch.float32)), ranks, "decoding the dead latents"
        )
        return (rebuilt - error[tokens].detach()).pow(2).sum() / len(x)

    # About four matrices as wide as the dead latents are many live at a time; all ranks must make the same chunks.
    tokens = chunks(len(x), 4 * n_widest, x.device)
    return sum_of_chunks(loss_of, tokens, dead.rows, *dead.parameters)

"""The dead-latent loss (Gao et al., arXiv 2406.04093, A.2) from the dead latents alone.

    L = ‖error − Σ_{f among the k best dead latents} a_f e_f‖²     summed over d, averaged over tokens

Everything here has as many columns as there are dead latents, and as many rows as a chunk has tokens.
"""

from collections.abc import Callable

import torch

from sae_lens_ext.ops.checks import require_count, require_one_precision, require_tensors
from sae_lens_ext.ops.chunks import chunks
from sae_lens_ext.ops.squared_error import squared_error
from sae_lens_ext.ops.sum_of_chunks import sum_of_chunks


def dead_latent_loss_naive(
    activations: Callable[..., torch.Tensor],
    x: torch.Tensor,
    error: torch.Tensor,
    parameters: tuple[torch.Tensor, ...],
    rows: torch.Tensor,
    k: int,
    rank_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Let the k best dead latents of each token rebuild the error that the living ones leave.

    Args:
        activations: Gives the activations of the N dead latents, shape [B, N], from x and the parameters.
        x: Activations that the encoder reads, shape [B, d].
        error: x − x̂, shape [B, d]; no gradient goes through it.
        parameters: What `activations` needs beside x.
        rows: Decoder rows of the dead latents, shape [N, d].
        k: Dead latents used per token, at most N.
        rank_scale: They are ranked by activation times this, shape [N]; None for 1.

    Returns:
        The loss, a scalar in float32 or better.

    Raises:
        ValueError: A tensor has another shape or type, or k is out of range.
    """
    k = _require("dead_latent_loss_naive", x, error, rows, k, rank_scale)
    acts = activations(x, *parameters)
    require_one_precision("dead_latent_loss", {"activations": acts, "rows": rows})
    if k < acts.shape[1]:
        ranked = acts.detach() if rank_scale is None else acts.detach() * rank_scale
        kept = ranked.topk(k, dim=-1, sorted=False).indices
        acts = torch.zeros_like(acts).scatter(1, kept, acts.gather(1, kept))
    return squared_error(acts @ rows, error.detach())


def dead_latent_loss(
    activations: Callable[..., torch.Tensor],
    x: torch.Tensor,
    error: torch.Tensor,
    parameters: tuple[torch.Tensor, ...],
    rows: torch.Tensor,
    k: int,
    rank_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Do as `dead_latent_loss_naive` in chunks of tokens; the gradients are found together with the loss.

    Args and Returns: as the naive form's; differentiable once, in x, the parameters and the rows.
    """

    def loss_of(
        tokens: slice, x: torch.Tensor, rows: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        share = len(x[tokens]) / len(x)
        return share * dead_latent_loss_naive(
            activations, x[tokens], error[tokens], parameters, rows, k, rank_scale
        )

    k = _require("dead_latent_loss", x, error, rows, k, rank_scale)

    # About four matrices as wide as the dead latents are many live at a time.
    return sum_of_chunks(loss_of, chunks(len(x), 4 * len(rows), x.device), x, rows, *parameters)


def _require(
    caller: str,
    x: torch.Tensor,
    error: torch.Tensor,
    rows: torch.Tensor,
    k: int,
    rank_scale: torch.Tensor | None,
) -> int:
    """Give k as an int if all arguments fit each other, else raise ValueError."""
    sizes = require_tensors(
        caller, x=(x, "B d_x"), error=(error, "B d"), rows=(rows, "N d"), rank_scale=(rank_scale, "N or None")
    )
    return require_count(caller, "k", k, sizes["N"], "the number of dead latents")

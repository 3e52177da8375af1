"""Bringing the rows of a batch from the ranks that read them to the ranks that train on them."""

import torch

from sae_lens_ext.ranks import Ranks


def exchange_rows(
    own: dict[str, torch.Tensor], owners: torch.Tensor, ranks: Ranks, whole: bool
) -> dict[str, torch.Tensor]:
    """Give this rank its rows of a batch, in the batch's order.

    Args:
        own: By hook name, the rows of the batch that this rank has read, in the batch's order, [n, d_in].
        owners: [B], which rank has read each row of the batch.
        ranks: Who they are.
        whole: Give every rank all B rows, instead of the B/size that are its own.

    Returns:
        By hook name, [B, d_in] or [B/size, d_in].
    """
    size, rank = ranks.size, ranks.rank
    if whole:
        n_own = int((owners == rank).sum())
        sent, wanted = [n_own] * size, owners
        own = {hook: rows.repeat(size, 1) for hook, rows in own.items()}
    else:
        parts = owners.chunk(size)
        sent, wanted = [int((part == rank).sum()) for part in parts], parts[rank]
    received = torch.bincount(wanted, minlength=size).tolist()
    arrived = wanted.argsort(stable=True)  # rows arrive rank by rank, those of a rank in the batch's order
    result: dict[str, torch.Tensor] = {}
    for hook, rows in own.items():
        came = ranks.tell.exchange(rows, sent, received, f"exchanging the activations at {hook}")
        result[hook] = torch.empty_like(came)
        result[hook][arrived.to(came.device)] = came
    return result

"""Each rank's share of an SAE's tensors, which are the latents of one range; cutting them and joining them again."""

from collections.abc import Mapping

import torch

from sae_lens_ext.ranks import Ranks

DIVIDED_AXIS: dict[str, int] = {"W_enc": 1, "b_enc": 0, "W_dec": 0}
"""Along which axis a parameter's latents lie; what is not named here is whole on every rank."""
BYTES_PER_MESSAGE = 2**26


def own_latents(d_sae: int, ranks: Ranks) -> slice:
    """Give the range of latents that are this rank's: d_sae/N of them, in the order of the ranks.

    Raises:
        ValueError: The latents cannot be divided evenly.
    """
    if d_sae % ranks.size:
        lower = d_sae - d_sae % ranks.size
        raise ValueError(
            f"d_sae = {d_sae} latents cannot be divided evenly over {ranks.size} ranks. Give a multiple of {ranks.size}, such as "
            f"{lower or ranks.size} or {lower + ranks.size}, or start another number of ranks."
        )
    n = d_sae // ranks.size
    return slice(ranks.rank * n, (ranks.rank + 1) * n)


def share_of_tensor(whole: torch.Tensor, axis: int | None, own: slice) -> torch.Tensor:
    """Copy a rank's latents out of a tensor whose latents lie along an axis; all of it for None."""
    return (whole if axis is None else whole.movedim(axis, 0)[own].movedim(0, axis)).clone()


def share_of_state(whole: Mapping[str, torch.Tensor], own: slice) -> dict[str, torch.Tensor]:
    """Cut an undivided SAE's parameters to a rank's share."""
    return {name: share_of_tensor(tensor, DIVIDED_AXIS.get(name), own) for name, tensor in whole.items()}


def joined_tensor(share: torch.Tensor, axis: int | None, ranks: Ranks, what: str) -> torch.Tensor | None:
    """Put the ranks' shares together on the first rank.

    They are sent to it in messages of at most 64 MiB, or one latent; the other ranks receive nothing.

    Args:
        share: This rank's, of the same shape on every rank.
        axis: Along which the latents lie; None if the ranks hold the same.
        ranks: Who they are. All must ask.
        what: For an error.

    Returns:
        The whole tensor, on the CPU and contiguous, on the first rank; None on the others.

    Raises:
        RankError: A rank does not answer.
    """
    if axis is None:
        return share.detach().cpu().clone(memory_format=torch.contiguous_format) if ranks.is_first else None
    rows = share.detach().movedim(axis, 0)
    n = len(rows)
    step = max(1, BYTES_PER_MESSAGE // max(1, rows[:1].numel() * rows.element_size()))
    whole = torch.empty(ranks.size, *rows.shape, dtype=rows.dtype) if ranks.is_first else None
    for start in range(0, n, step):
        message = rows[start : start + step].cpu()
        sent = [len(message)] + [0] * (ranks.size - 1)
        received = [len(message) if ranks.is_first else 0] * ranks.size
        came = ranks.tell.exchange(message, sent, received, what)
        if whole is not None:
            whole[:, start : start + step] = came.view(ranks.size, *message.shape)
    return None if whole is None else whole.flatten(0, 1).movedim(0, axis).contiguous()


def joined_state(share: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor] | None:
    """Put an SAE's parameters together on the first rank, one after another; None on the other ranks."""
    whole = {
        name: joined_tensor(tensor, DIVIDED_AXIS.get(name), ranks, f"joining the ranks' shares of {name}")
        for name, tensor in share.items()
    }
    return {name: tensor for name, tensor in whole.items() if tensor is not None} if ranks.is_first else None

"""How far apart the predictions of two modes are, in float64, at the positions that predict a generated token."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

MEASURES = ("kl_to_reference", "kl_to_base", "kl_to_full", "agreement", "delta_p", "p")
_AT_ONCE = 64
"""Positions whose logits are in float64 at a time."""


def kl_divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Give KL(P‖Q) = Σ p (log p − log q), nats.

    Args:
        log_p: log p, [n, d_vocab].
        log_q: log q, [n, d_vocab].

    Returns:
        [n]; where p is 0 the summand is 0.
    """
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1)


def distance_sums(
    logits: torch.Tensor,
    of: Mapping[str, torch.Tensor],
    tokens: torch.Tensor,
    rows: torch.Tensor,
    n_rows: int,
) -> NDArray[np.float64]:
    """Measure a mode at every position, and sum by row.

    Args:
        logits: Of the mode, [n, d_vocab].
        of: Logits [n, d_vocab] of "reference", "base" and "full".
        tokens: The token that came, [n].
        rows: The sequence of each position, [n].
        n_rows: How many sequences there are.

    Returns:
        Sums over a sequence's positions, [measures, n_rows], in the order of `MEASURES`: KL(P_reference‖P_mode), KL(P_base‖P_mode), KL(P_full‖P_mode); 1
        where the likeliest tokens of mode and reference are the same; p_mode − p_reference of the token that came, and p_mode.
    """
    sums = torch.zeros(len(MEASURES), n_rows, dtype=torch.float64)
    for start in range(0, len(logits), _AT_ONCE):
        at = slice(start, start + _AT_ONCE)
        log_q = _log_softmax(logits[at])
        others = {name: log_q if found is logits else _log_softmax(found[at]) for name, found in of.items()}
        came = tokens[at].to(log_q.device)[:, None]
        p, p_reference = (one.gather(1, came)[:, 0].exp() for one in (log_q, others["reference"]))
        values = [kl_divergence(others[name], log_q) for name in ("reference", "base", "full")]
        values.append((log_q.argmax(dim=1) == others["reference"].argmax(dim=1)).double())
        values += [p - p_reference, p]
        sums.index_add_(1, rows[at], torch.stack(values).cpu())
    return sums.numpy()


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits.double(), dim=-1)

"""How two predictions of one token differ: the tokens that gain most, KL divergence, total variation."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch

from sae_lens_ext.steering.reading.token_shift.paired_logits import PairedLogits

_CHUNK = 2**21
"""Probabilities computed at a time, at most: 16 MiB in float64."""
NO_TOKEN = -1
"""In the place of a token's id: there is none."""


@dataclass(frozen=True, eq=False)
class Shifts:
    """One line for each generated token, on the CPU. Δp is p_steered − p_base."""

    row: torch.Tensor
    """Which sequence, [n], int64."""
    offset: torch.Tensor
    """Which of its generated tokens, [n], int64; 0 is the first."""
    token: torch.Tensor
    """Id of the generated token, [n], int64."""
    token_delta: torch.Tensor
    """Δp of the generated token, [n], float32; positive: the steering makes it likelier."""
    token_p_base: torch.Tensor
    """p_base of the generated token, [n], float32."""
    boosted: torch.Tensor
    """Ids of the tokens with the largest Δp, descending, [n, top_k], int64; −1 where no more tokens gain."""
    boosted_delta: torch.Tensor
    """Their Δp, [n, top_k], float32, above 0; 0 where there is no token."""
    boosted_p_base: torch.Tensor
    """Their p_base, [n, top_k], float32; NaN where there is no token."""
    base_top: torch.Tensor
    """Id of the base's first choice, argmax p_base, [n], int64."""
    kl: torch.Tensor
    """KL(steered‖base) = Σ p_steered · ln(p_steered / p_base), [n], float32, nats."""
    total_variation: torch.Tensor
    """Total variation distance, ½ Σ |Δp|, [n], float32, 0 to 1."""


def shifts_of(pairs: PairedLogits, top_k: int) -> Shifts:
    """Measure every line of a batch, some at a time, so that the probabilities of all are never in memory together.

    Args:
        pairs: The logits.
        top_k: How many of the tokens that gain most are kept.
    """
    n, d_vocab = pairs.base.shape
    step = max(1, _CHUNK // d_vocab)
    lines = [slice(start, start + step) for start in range(0, n, step)]
    parts = [_measured(pairs.base[i], pairs.steered[i], pairs.token[i], top_k) for i in lines]
    measured = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Shifts(row=pairs.row, offset=pairs.offset, token=pairs.token, **measured)


def joined(parts: Iterable[Shifts]) -> Shifts:
    """Put the lines of batches together, by row and then by offset."""
    several = list(parts)
    columns = {f.name: torch.cat([getattr(part, f.name) for part in several]) for f in fields(Shifts)}
    longest = int(columns["offset"].max()) + 1
    order = (columns["row"] * longest + columns["offset"]).argsort()
    return Shifts(**{name: column[order] for name, column in columns.items()})


def _measured(
    base: torch.Tensor, steered: torch.Tensor, token: torch.Tensor, top_k: int
) -> dict[str, torch.Tensor]:
    log_p_base, log_p_steered = (_log_probabilities(logits) for logits in (base, steered))
    p_base, p_steered = log_p_base.exp(), log_p_steered.exp()
    delta = p_steered - p_base
    gains, boosted = delta.topk(min(top_k, delta.shape[1]), dim=1)
    none = gains <= 0
    chosen = token.to(delta.device)[:, None]
    terms = p_steered * (log_p_steered - log_p_base)
    found = {
        "token_delta": delta.gather(1, chosen)[:, 0].float(),
        "token_p_base": p_base.gather(1, chosen)[:, 0].float(),
        "boosted": boosted.masked_fill(none, NO_TOKEN),
        "boosted_delta": gains.clamp(min=0).float(),
        "boosted_p_base": p_base.gather(1, boosted).masked_fill(none, float("nan")).float(),
        "base_top": base.argmax(dim=1),
        "kl": terms.nansum(dim=1).clamp(min=0).float(),  # 0 · ln 0 is NaN and means 0
        "total_variation": (delta.abs().sum(dim=1) / 2).float(),
    }
    return {name: tensor.cpu() for name, tensor in found.items()}


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Give ln p in float64, which Apple's GPUs do not have."""
    device = "cpu" if logits.device.type == "mps" else logits.device
    return logits.to(device, torch.float64).log_softmax(dim=1)

"""On how many tokens latents fire: counted batch by batch, added up over the ranks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.ranks import Ranks

LATENTS_AT_ONCE = 2**26
"""Up to how many latents of a batch, rows times d_sae, are held at a time: a batch that has more is encoded in parts."""


@dataclass(frozen=True)
class FiringCounts:
    """On how many of how many tokens latents fired."""

    fired: dict[str, torch.Tensor]
    """By SAE, [d_sae], int64, on the CPU."""
    n_tokens: int
    """How many tokens were read."""

    def summed(self, ranks: Ranks) -> "FiringCounts":
        """Give the counts over all ranks' tokens."""
        n_tokens, fired = (
            torch.tensor(self.n_tokens),
            {name: count.clone() for name, count in self.fired.items()},
        )
        for count in (n_tokens, *fired.values()):
            ranks.tell.reduce_(count, "sum", "adding up how often latents fired")
        return FiringCounts(fired, int(n_tokens))


def count_firings(opened: Mapping[str, SAE[Any]], activations: Iterable[torch.Tensor]) -> FiringCounts:
    """Count on how many activations each latent fires.

    Args:
        opened: SAEs by name.
        activations: Batches [n, d_in].

    Raises:
        ValueError: An activation has another width than an SAE reads, or is NaN or infinite, or a latent is.
    """
    fired = {name: torch.zeros(sae.cfg.d_sae, dtype=torch.int64) for name, sae in opened.items()}
    n_tokens = 0
    for x in activations:
        n_tokens += len(x)
        for name, sae in opened.items():
            fired[name] += _firings(name, sae, x)
    return FiringCounts(fired, n_tokens)


def _firings(name: str, sae: SAE[Any], x: torch.Tensor) -> torch.Tensor:
    """Count the rows of `x` [n, d_in] on which each latent fires, [d_sae]."""
    if x.shape[-1] != sae.cfg.d_in:
        raise ValueError(
            f"The activations have width {x.shape[-1]}, but the SAE {name!r} has d_in = {sae.cfg.d_in}. It belongs to another model or hook: give those it was "
            "trained on."
        )
    _require_finite("the activations", x)
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.int64)
    for rows in x.split(max(1, LATENTS_AT_ONCE // sae.cfg.d_sae)):
        with flat_heads(sae):
            acts = sae.encode(rows.to(sae.device, sae.dtype))
        acts = acts.to_dense() if acts.is_sparse else acts
        _require_finite(f"the latents of the SAE {name!r} on them", acts)
        fired += (acts != 0).sum(dim=0).cpu()
    return fired


def _require_finite(what: str, tensor: torch.Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise ValueError(
            f"There is NaN or infinity in {what}, so that nothing can be counted. Look at the precision: float16 overflows where bfloat16 does not."
        )

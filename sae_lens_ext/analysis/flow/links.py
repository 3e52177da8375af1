"""The matches between two sites, each with its score and how seldom chance reaches it."""

from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_ext.analysis.flow.match import best_matches
from sae_lens_ext.analysis.flow.null import (
    N_NULL,
    NullCosines,
    NullModel,
    made_up_features,
    null_cosines,
)
from sae_lens_ext.analysis.flow.sites import FlowSites
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.number_checks import require_seed

LARGEST_NULL = 2**24


@dataclass(frozen=True)
class Match:
    """One feature's best match at another site."""

    index: int
    """The match; −1 for none."""
    score: float
    """Cosine; NaN for none."""
    null_quantile: float
    """Share of made-up features whose best score is smaller; NaN for none."""


class Links:
    """Finds matches from site to site, and keeps the null distributions, which are dear beside one feature's match."""

    def __init__(self, sites: FlowSites, null: NullModel, n_null: int, seed: int) -> None:
        require_positive_int("The null model", "n_null", n_null, LARGEST_NULL, "what fits into memory")
        seed = require_seed("The null model", seed)
        self.sites = sites
        self.settings: dict[str, Any] = {"null": null, "n_null": n_null, "seed": seed}
        """What the null quantiles depend on, for the provenance."""
        self._null: NullModel = null
        self._n_null = n_null
        self._seed = seed
        self._nulls: dict[tuple[str, str], NullCosines] = {}
        self._last_made_up: tuple[str, torch.Tensor] | None = None

    def best(self, hook: str, index: int, other_hook: str) -> Match:
        """Match one feature with those of another site."""
        row = self.sites.rows(hook)[index : index + 1]
        indices, scores = best_matches(row, self.sites.rows(other_hook))
        quantiles = self.null(hook, other_hook).quantile_of(scores)
        return Match(int(indices.item()), float(scores.item()), float(quantiles.item()))

    def all(self, hook: str, other_hook: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Match every feature of a site: indices, scores and null quantiles, [d_sae] each, on the CPU."""
        indices, scores = best_matches(self.sites.rows(hook), self.sites.rows(other_hook))
        quantiles = self.null(hook, other_hook).quantile_of(scores)
        return indices[:, 0].cpu(), scores[:, 0].cpu(), quantiles[:, 0].cpu()

    def null(self, hook: str, other_hook: str) -> NullCosines:
        """Give the best scores at `other_hook` of features made up after those of `hook`."""
        pair = (hook, other_hook)
        if pair not in self._nulls:
            self._nulls[pair] = null_cosines(self._made_up(hook), self.sites.rows(other_hook))
        return self._nulls[pair]

    def _made_up(self, hook: str) -> torch.Tensor:
        """Give features made up after those of a site; those of the last site asked for are kept."""
        if self._last_made_up is None or self._last_made_up[0] != hook:
            rows = made_up_features(self.sites.rows(hook), self._null, n=self._n_null, seed=self._seed)
            self._last_made_up = (hook, rows)
        return self._last_made_up[1]


__all__ = ["N_NULL", "Links", "Match"]

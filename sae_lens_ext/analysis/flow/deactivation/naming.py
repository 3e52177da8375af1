"""Which predecessor each method names for a feature: the rivals of the deactivation test (arXiv 2502.03032, Table 1)."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch

from sae_lens_ext.analysis.flow.match import best_matches, permutation

Method = Literal["cosine", "permutation", "random_of_top_5", "pearson", "exhaustive"]
METHODS: tuple[Method, ...] = get_args(Method)
CONTROL = "random_active"
"""A predecessor drawn from all that are active at the token: what taking any of them away does."""
AT_THE_TOKEN = ("exhaustive", CONTROL)
"""Methods that name a predecessor only where the token is known."""
_TOP = 5


class Naming:
    """The predecessors at one site that methods name for some features, from the SAEs' weights and from correlations.

    Args:
        methods: Which methods; those that need the token are left out.
        features: Indices of the target's features, ascending, each once, [n].
        target_rows: The target's decoder, [d_sae, d_model], unit rows.
        predecessor_rows: The predecessor's, the same.
        pearson: Indices and scores [d_sae, 1] of the most correlated predecessor, if that method is among them.
    """

    def __init__(
        self,
        methods: Sequence[str],
        features: torch.Tensor,
        target_rows: torch.Tensor,
        predecessor_rows: torch.Tensor,
        pearson: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        self._features = features
        self._named: dict[str, torch.Tensor] = {}
        features = features.to(target_rows.device)
        if "cosine" in methods or "random_of_top_5" in methods:
            top = min(_TOP, len(predecessor_rows))
            self._named["cosine"] = best_matches(target_rows[features], predecessor_rows, top)[0].cpu()
        if "permutation" in methods:
            self._named["permutation"] = permutation(target_rows, predecessor_rows)[0][features].cpu()
        if pearson is not None:
            indices, scores = pearson
            named = torch.where(scores > 0, indices, -1)  # a correlation of 0 or less names nothing
            self._named["pearson"] = named[features.to(named.device)].cpu()

    def name(self, method: str, features: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Give the predecessor of each of some features, [n]; −1 where the method names none.

        Args:
            method: One that needs no token.
            features: Indices [n], of those given at the start.
            rng: What one of five is drawn with, for each feature anew.
        """
        position = torch.searchsorted(self._features, features)
        if method != "random_of_top_5":
            return self._named[method][position, 0]
        best = self._named["cosine"][position]
        n_named = (best >= 0).sum(dim=1).numpy()  # the positive ones come first
        drawn = torch.from_numpy((rng.random(len(best)) * n_named).astype(np.int64))
        return best.gather(1, drawn[:, None])[:, 0]

"""Matching the features of two SAEs by their decoder directions, without data (arXiv 2502.03032, §3; one-to-one: SAE Match, arXiv 2410.07656).

Left out: matching by encoder directions, and by thresholds folded into the decoder, which the paper does not use for matching.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sae_lens_ext.analysis.dictionaries import SAESource, decoder_rows, open_sae, require_folded
from sae_lens_ext.analysis.matching import one_to_one as assign
from sae_lens_ext.analysis.matching import top_cosines
from sae_lens_ext.analysis.matching.cosines import paired_cosines
from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_FORMAT = "sae_lens_ext.FeatureMatch/1"


@dataclass(frozen=True, eq=False, repr=False)
class FeatureMatch:
    """For every feature of SAE A, the features of SAE B that are its continuation (or origin)."""

    indices: torch.Tensor
    """[d_sae_a, top_k], int64: features of B, most similar first; −1 where none has a positive cosine."""
    scores: torch.Tensor
    """[d_sae_a, top_k], floating: cosine of the two decoder rows, above 0 up to 1; or, of `pearson_matches`, the correlation of the two activations,
    −1 to 1. NaN where the index is −1."""
    d_sae_b: int
    """Features of B."""
    one_to_one: bool
    """No feature of B is the match of two."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Versions, and what the SAEs' metadata say of them; of correlations also the tokens they are over."""
    by: Literal["cosine", "correlation"] = "cosine"
    """What the scores are: cosines of decoder rows, or Pearson correlations of activations (`pearson_matches`)."""

    def then(self, after: "FeatureMatch") -> "FeatureMatch":
        """Follow the best match from A to B, and `after` on from B to C: the composition P(A→C) = P(B→C) P(A→B).

        Returns:
            The match of A with C, [d_sae_a, 1]. A score is the smaller of the two on the way, no cosine of A with C.

        Raises:
            ValueError: `after` begins at other features than these end at.
        """
        if len(after.indices) != self.d_sae_b:
            raise ValueError(
                f"A match that ends at {self.d_sae_b} features cannot go on with one that begins at {len(after.indices)}. Give a match from the SAE "
                "at which this one ends."
            )
        middle = self.indices[:, 0]
        known = middle >= 0
        end = torch.where(known, after.indices[middle.clamp(min=0), 0], -1)
        scores = torch.minimum(self.scores[:, 0], after.scores[middle.clamp(min=0), 0])
        scores = torch.where(end >= 0, scores, float("nan"))
        return FeatureMatch(
            end[:, None],
            scores[:, None],
            after.d_sae_b,
            self.one_to_one and after.one_to_one,
            {"composed_of": [self.provenance, after.provenance], **versions()},
        )

    def to_frame(self) -> "pd.DataFrame":
        """Give a row per match: feature, rank (from 1), match, score. Features without a match have no row."""
        import pandas as pd

        feature, rank = torch.nonzero(self.indices >= 0, as_tuple=True)
        return pd.DataFrame(
            {
                "feature": feature.cpu().numpy(),
                "rank": rank.cpu().numpy() + 1,
                "match": self.indices[feature, rank].cpu().numpy(),
                "score": self.scores[feature, rank].cpu().numpy(),
            }
        )

    def plot(self) -> "go.Figure":
        """Draw how the best matches' scores are distributed; returns the figure without showing it."""
        import plotly.graph_objects as go

        best = self.scores[:, 0]
        figure = go.Figure(go.Histogram(x=best[~best.isnan()].cpu().numpy(), nbinsx=50))
        return figure.update_layout(
            title=f"Best matches: {self.provenance.get('hook_a')} → {self.provenance.get('hook_b')}",
            xaxis_title="score of the best match",
            yaxis_title="features",
            template="plotly_white",
        )

    def save(self, path: str | Path) -> None:
        """Write the match as JSON, its tensors as safetensors beside it."""
        content = {
            "d_sae_b": self.d_sae_b,
            "one_to_one": self.one_to_one,
            "by": self.by,
            "provenance": self.provenance,
        }
        save_result_with_tensors(path, _FORMAT, content, {"indices": self.indices, "scores": self.scores})

    @classmethod
    def load(cls, path: str | Path) -> "FeatureMatch":
        """Read a match that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole match.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> "FeatureMatch":
            return cls(
                tensors["indices"],
                tensors["scores"],
                content["d_sae_b"],
                content["one_to_one"],
                content["provenance"],
                content["by"],
            )

        return load_result_with_tensors(path, _FORMAT, build, "match the features again")

    def __repr__(self) -> str:
        best = self.scores[:, 0][self.indices[:, 0] >= 0]
        middle = f"median {self.by} {best.median().item():.3f}" if len(best) else f"no {self.by} to match by"
        kind = "one to one" if self.one_to_one else f"the best {self.indices.shape[1]}"
        return (
            f"FeatureMatch of {len(self.indices)} features with {self.d_sae_b}, {kind}\n"
            f"  {len(best)} have a match, {middle}\n"
            f"  {self.provenance.get('hook_a')} → {self.provenance.get('hook_b')}"
        )

    def _repr_html_(self) -> str:
        return notebook_view(self, self.to_frame().head(10).round(3).to_html(index=False))


def match_features(
    sae_a: SAESource, sae_b: SAESource, *, top_k: int = 1, one_to_one: bool = False
) -> FeatureMatch:
    """Match each feature of one SAE with the features of another that point the same way.

    T^(A→B) = 1_{x>0}(top_k(W_dec^A W_dec^Bᵀ)), rows at unit length (2502.03032, §3). A feature of B may be the match of several; with
    `one_to_one` it may not, and the sum of all cosines is the largest possible (2410.07656). The matrix of all cosines is never held.

    Args:
        sae_a: An SAE, a folder or (release, id), of any architecture.
        sae_b: Another of the same residual stream: the next layer's, the one before, a module's output.
        top_k: Matches of each feature.
        one_to_one: Match by permutation instead; top_k must be 1.

    Returns:
        The matches.

    Raises:
        ValueError: The SAEs have different widths or models, a decoder holds NaN or infinity, a normalisation was never folded,
            or top_k is out of range.
    """
    saes = {"A": open_sae("match_features", sae_a), "B": open_sae("match_features", sae_b)}
    require_folded("match_features", saes)
    rows = {name: decoder_rows(name, sae) for name, sae in saes.items()}
    metadata = {name: sae.cfg.metadata for name, sae in saes.items()}
    models = {m.model_name for m in metadata.values() if m.model_name is not None}
    if rows["A"].shape[1] != rows["B"].shape[1] or len(models) > 1:
        raise ValueError(
            f"match_features was given an SAE of width {rows['A'].shape[1]} on {metadata['A'].model_name!r} and one of width {rows['B'].shape[1]} on "
            f"{metadata['B'].model_name!r}. Features are compared along one residual stream: give SAEs of one model."
        )
    if one_to_one and top_k != 1:
        raise ValueError(
            f"match_features was given one_to_one with top_k = {top_k}. A permutation has one match for each feature: leave top_k at 1."
        )
    provenance = {
        **{f"hook_{name.lower()}": m.hook_name_out or m.hook_name for name, m in metadata.items()},
        "model_name": next(iter(models), None),
        **versions(),
    }
    if one_to_one:
        return FeatureMatch(*permutation(rows["A"], rows["B"]), len(rows["B"]), True, provenance)
    return FeatureMatch(*best_matches(rows["A"], rows["B"], top_k), len(rows["B"]), False, provenance)


def best_matches(a: torch.Tensor, b: torch.Tensor, top_k: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Give indices and scores, [n, top_k] each, of the rows of `b` most like each row of `a`; −1 and NaN where not positive.

    Args:
        a: [n, d], rows of unit length or zeros.
        b: [m, d], the same.
        top_k: How many.
    """
    top = top_cosines(a, b, top_k)
    return _positive(top.indices, top.values)


def permutation(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give indices and scores, [n, 1] each, of the one-to-one assignment of rows of `b` to rows of `a` with the largest sum of cosines."""
    partners = assign(a, b)
    scores = paired_cosines(a, b, partners)
    return _positive(partners[:, None], scores[:, None])


def _positive(indices: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A cosine of 0 or less is no match."""
    positive = scores > 0
    return torch.where(positive, indices, -1), torch.where(positive, scores, float("nan"))

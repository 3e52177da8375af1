"""Where the features of a residual stream come from, by how much they resemble their predecessors (arXiv 2502.03032, §3.2)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_lens_ext.analysis.dictionaries import SAESource, open_sae
from sae_lens_ext.analysis.flow.links import N_NULL, Links
from sae_lens_ext.analysis.flow.null import NullModel
from sae_lens_ext.analysis.flow.sites import KINDS, FlowSites, Kind, flow_site
from sae_lens_ext.analysis.flow.thresholds import FlowThresholds, ThresholdsLike, thresholds_of
from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ORIGINS = ("translated", "processed", "newborn", "unexplained")
_ANY_LAYER = "blocks.1.hook_resid_post"  # of an SAE that does not say
_PREDECESSORS: dict[Kind, str] = {
    "residual": "blocks.{}.hook_resid_pre",
    "mlp": "blocks.{}.hook_mlp_out",
    "attention": "blocks.{}.hook_attn_out",
}
_FORMAT = "sae_lens_ext.FeatureOrigins/1"


def origin_codes(high: Mapping[Kind, torch.Tensor]) -> torch.Tensor:
    """Give each feature's origin as a position in `ORIGINS`, [n], int8.

    Args:
        high: By kind of predecessor, [n] bool: whether the match counts. A kind that is not there counts for no feature.
    """
    n = len(next(iter(high.values())))
    none = torch.zeros(n, dtype=torch.bool)
    residual, module = (
        high.get("residual", none),
        high.get("mlp", none) | high.get("attention", none),
    )
    codes = torch.full((n,), ORIGINS.index("unexplained"), dtype=torch.int8)
    codes[residual & ~module] = ORIGINS.index("translated")
    codes[residual & module] = ORIGINS.index("processed")
    codes[~residual & module] = ORIGINS.index("newborn")
    return codes


def origin_is_known(layer: int, kinds: Collection[Kind]) -> bool:
    """Tell whether the origin of a layer's features can be told from predecessors of these kinds: layer 0 alone has no stream before it."""
    return bool(kinds) and (layer == 0 or "residual" in kinds)


@dataclass(frozen=True, eq=False, repr=False)
class FeatureOrigins:
    """The best predecessor of every feature of a residual SAE at each site, and what that makes of the feature."""

    scores: dict[Kind, torch.Tensor]
    """By kind of predecessor that was given, [d_sae], float32: s(P) = max_k f · W_dec^P[k], above 0 up to 1; NaN where none is positive."""
    indices: dict[Kind, torch.Tensor]
    """By kind, [d_sae], int64: the predecessor; −1 where there is none."""
    null_quantiles: dict[Kind, torch.Tensor]
    """By kind, [d_sae], float32, 0 to 1: share of made-up features whose best score is smaller; NaN where there is no score."""
    thresholds: FlowThresholds
    """From which score on a predecessor counts."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Versions, hooks, the null model and its seed."""

    @property
    def missing(self) -> tuple[str, ...]:
        """A sentence for each kind of predecessor without an SAE, and what cannot be told without it."""
        found: list[str] = []
        if "residual" not in self.scores and self.provenance.get("layer") != 0:
            found.append(
                "No SAE of the stream one layer before: features that were there count as newborn or unexplained."
            )
        absent = [kind for kind in ("mlp", "attention") if kind not in self.scores]
        if absent:
            found.append(
                f"No SAE of the {' and the '.join(absent)} output: features that come from there count as translated or unexplained."
            )
        return tuple(found)

    @property
    def labels(self) -> np.ndarray:
        """[d_sae] of "translated" (the residual predecessor alone counts), "processed" (it and a module's), "newborn" (a module's alone), "unexplained"."""
        high: dict[Kind, torch.Tensor] = {
            kind: self.thresholds.passed(kind, scores, self.null_quantiles[kind])
            for kind, scores in self.scores.items()
        }
        return np.array(ORIGINS)[origin_codes(high).long().numpy()]

    def to_frame(self) -> "pd.DataFrame":
        """Give a row per feature: feature, origin, and of each kind the predecessor, its score and its null quantile."""
        import pandas as pd

        columns: dict[str, Any] = {"feature": range(len(self.labels)), "origin": self.labels}
        for kind in self.scores:
            columns[kind] = self.indices[kind].numpy()
            columns[f"{kind}_score"] = self.scores[kind].numpy()
            columns[f"{kind}_null_quantile"] = self.null_quantiles[kind].numpy()
        return pd.DataFrame(columns)

    def summary(self) -> "pd.DataFrame":
        """Give a row per origin: features, share, and the median score of each kind."""
        return summarise_origins(self.to_frame())

    def plot(self) -> "go.Figure":
        """Draw the features by s(R) and by the larger of s(M) and s(A), coloured by origin."""
        from sae_lens_ext.analysis.flow.origins_figure import origins_figure

        return origins_figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, its tensors as safetensors beside it."""
        tensors = {
            f"{what}/{kind}": tensor
            for what, by_kind in (
                ("scores", self.scores),
                ("indices", self.indices),
                ("null_quantiles", self.null_quantiles),
            )
            for kind, tensor in by_kind.items()
        }
        content = {"thresholds": self.thresholds.to_dict(), "provenance": self.provenance}
        save_result_with_tensors(path, _FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "FeatureOrigins":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result of this kind.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> "FeatureOrigins":
            kinds: list[Kind] = [kind for kind in KINDS if f"scores/{kind}" in tensors]

            def by_kind(what: str) -> dict[Kind, torch.Tensor]:
                return {kind: tensors[f"{what}/{kind}"] for kind in kinds}

            return cls(
                by_kind("scores"),
                by_kind("indices"),
                by_kind("null_quantiles"),
                FlowThresholds(**content["thresholds"]),
                content["provenance"],
            )

        return load_result_with_tensors(path, _FORMAT, build, "find the origins again")

    def __repr__(self) -> str:
        labels: list[str] = self.labels.tolist()
        shares = ", ".join(f"{labels.count(origin) / max(1, len(labels)):.0%} {origin}" for origin in ORIGINS)
        return (
            f"FeatureOrigins of {len(labels)} features at {self.provenance.get('hook')}\n"
            f"  {shares}\n"
            f"  by {', '.join(f'{kind} ({s.nanmedian().item():.2f})' for kind, s in self.scores.items())}, median scores"
        )

    def _repr_html_(self) -> str:
        return notebook_view(self, self.summary().round(3).to_html(index=False))


def summarise_origins(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Give a row per origin of a frame with the columns origin and …_score: features, share, median scores."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for origin in ORIGINS:
        part: Any = frame[frame["origin"] == origin]
        medians = {c: part[c].median() for c in frame.columns if c.endswith("_score")}
        rows.append(
            {"origin": origin, "features": len(part), "share": len(part) / max(1, len(frame)), **medians}
        )
    return pd.DataFrame(rows)


def feature_origins(
    target: SAESource,
    *,
    residual: SAESource | None = None,
    mlp: SAESource | None = None,
    attention: SAESource | None = None,
    thresholds: ThresholdsLike = "null",
    null: NullModel = "shuffled",
    n_null: int = N_NULL,
    model: Any = None,
    seed: int = 0,
) -> FeatureOrigins:
    """Say of each feature of a residual SAE where it comes from, by decoder directions alone.

    Args:
        target: The SAE of the residual stream after layer L.
        residual: That of the stream after layer L − 1; None where there is none, as for layer 0.
        mlp: That of layer L's MLP output.
        attention: That of layer L's attention output (before it is added to the stream).
        thresholds: From which score s(P) on a predecessor counts. "null" (default): as 99 of 100 made-up features do not reach; "paper":
            0.5 for the stream and 0.15 for modules, with which the paper steers; None: any positive score; or `FlowThresholds`.
        null: How features are made up, see `null_cosines`.
        n_null: How many are made up.
        model: The language model, for an SAE of the attention's heads (`attn.hook_z`) alone.
        seed: Of the made-up features.

    Returns:
        Scores, predecessors and labels of all features.

    Raises:
        ValueError: There is no predecessor; an SAE is of another kind of site, or of another layer, than it is given for (as far as its
            metadata say); the SAEs have different widths or models; one is on the attention's heads and there is no model, or holds NaN.
    """
    caller = "feature_origins"
    limits = thresholds_of(caller, thresholds)
    given: dict[Kind, SAESource] = {
        kind: source
        for kind, source in zip(KINDS, (residual, mlp, attention), strict=True)
        if source is not None
    }
    if not given:
        raise ValueError(
            "feature_origins was given no predecessor. Give residual=, mlp= or attention=, the SAEs that feed the target's layer."
        )
    sae = open_sae(caller, target)
    own = sae.cfg.metadata.hook_name_out or sae.cfg.metadata.hook_name or _ANY_LAYER
    site = flow_site(own)
    if site.kind != "residual":
        raise ValueError(
            f"feature_origins was given a target of {own!r}. Give an SAE of the residual stream: its features are those that come from somewhere."
        )
    if site.layer == 0 and residual is not None:
        raise ValueError(
            f"feature_origins was given residual= for a target of {own!r}, before whose layer there is no residual SAE. Leave it out."
        )
    names = {kind: name.format(site.layer) for kind, name in _PREDECESSORS.items()}
    sites = FlowSites.open(
        caller, {own: sae, **{names[kind]: source for kind, source in given.items()}}, model=model
    )
    return origins_at(Links(sites, null, n_null, seed), own, limits)


def origins_at(links: Links, hook: str, thresholds: FlowThresholds) -> FeatureOrigins:
    """Give the origins of the features of a residual site.

    Args:
        links: Finds their matches.
        hook: The site.
        thresholds: From which score on a predecessor counts.
    """
    sites = links.sites
    before = sites.predecessors(hook)
    indices: dict[Kind, torch.Tensor] = {}
    scores: dict[Kind, torch.Tensor] = {}
    quantiles: dict[Kind, torch.Tensor] = {}
    for kind, name in before.items():
        indices[kind], scores[kind], quantiles[kind] = links.all(hook, name)
    provenance = {
        "hook": hook,
        "layer": sites.site(hook).layer,
        "predecessors": dict(before),
        "model_name": sites.model_name,
        **links.settings,
        **versions(),
    }
    return FeatureOrigins(scores, indices, quantiles, thresholds, provenance)

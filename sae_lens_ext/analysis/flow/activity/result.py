"""What `predecessor_activity` found: the groups, the tests between them, figures and a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_lens_ext.analysis.flow.activity.groups import GROUPS, LETTERS, Unit, require_unit
from sae_lens_ext.analysis.flow.activity.mann_whitney import MIN_GROUP, compare_groups
from sae_lens_ext.analysis.flow.activity.occurrences import Occurrences
from sae_lens_ext.analysis.flow.origins import FeatureOrigins
from sae_lens_ext.analysis.flow.sites import Kind
from sae_lens_ext.analysis.flow.thresholds import FlowThresholds, ThresholdsLike, thresholds_of
from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.PredecessorActivity/1"
ALPHA = 0.001
"""The level at which the paper counts a test."""
_OF_ORIGINS = ("scores", "indices", "null_quantiles")


@dataclass(frozen=True, repr=False, eq=False)
class PredecessorActivity:
    """Which predecessors are active where residual features are. See `predecessor_activity`.

    The unit of analysis: with "occurrence", the paper's, every feature counts at every token where it is active. A score is a property
    of the feature, so that the occurrences of one feature are no independent values, and p values are smaller than they should be: features
    that fire often are counted as if they were many. With "feature" a feature counts once in each group of a text that it is ever in. That
    is the better test; shares of groups then weigh rare features like common ones.
    """

    occurrences: Occurrences
    """Every active feature at every drawn token."""
    hooks: tuple[str, ...]
    """Hooks of the residual features, by layer."""
    layers: tuple[int, ...]
    """Their layers."""
    origins: Mapping[str, FeatureOrigins]
    """By hook: predecessors and scores of all its features, and their origins by scores."""
    text_sizes: Mapping[str, int]
    """How many contexts (samples) were read of each text, in their order."""
    n_tokens: int
    """How many tokens were drawn of all texts."""
    missing: tuple[str, ...] = ()
    """Sentences on sites without an SAE, whose features are never seen active."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hooks, how tokens were drawn, a hash of the tokens of each text and of each SAE."""

    def to_frame(self, unit: Unit = "occurrence") -> "pd.DataFrame":
        """Give a row for each occurrence, or for each feature, text and group it is ever in.

        Returns:
            The columns hook, layer, text, sample and position (with "occurrence" only), feature, group, origin (by scores), and for each kind
            its score; a feature without a positive cosine has the score 0, where there is no SAE of the kind it is NaN.
        """
        import pandas as pd

        require_unit(unit)
        own = {f.name: getattr(self.occurrences, f.name).numpy() for f in fields(Occurrences)}
        frame = pd.DataFrame(
            {
                "hook": pd.Categorical.from_codes(own["hook"], categories=list(self.hooks)),
                "layer": np.array(self.layers)[own["hook"]],
                "text": pd.Categorical.from_codes(
                    self._text_of(own["context"]), categories=list(self.text_sizes)
                ),
                "sample": own["context"],
                "position": own["position"],
                "feature": own["feature"],
                "group": pd.Categorical.from_codes(own["group"], categories=list(GROUPS)),
            }
        )
        if unit == "feature":
            frame = frame.drop(columns=["sample", "position"]).drop_duplicates(ignore_index=True)
        origin = np.empty(len(frame), dtype=object)
        scores = {kind: np.full(len(frame), np.nan, dtype=np.float32) for kind in LETTERS}
        for i, hook in enumerate(self.hooks):
            rows = frame["hook"].cat.codes.to_numpy() == i
            features = frame["feature"].to_numpy()[rows]
            origin[rows] = self.origins[hook].labels[features]
            for kind, found in self.origins[hook].scores.items():
                scores[kind][rows] = found.nan_to_num(0.0).numpy()[features]
        return frame.assign(origin=origin, **{f"{kind}_score": values for kind, values in scores.items()})

    def groups(self, unit: Unit = "occurrence") -> "pd.DataFrame":
        """Give how many are in each group: a row for each hook, text and group, also those that are empty.

        Returns:
            The columns hook, layer, text, group, count, share (of the hook's and text's, 0 to 1; NaN if it has none).
        """
        sizes: Any = self.to_frame(unit).groupby(["hook", "text", "group"], observed=False).size()
        table = sizes.reset_index(name="count")
        table.insert(1, "layer", np.repeat(self.layers, len(self.text_sizes) * len(GROUPS)))
        return table.assign(
            share=table["count"] / table.groupby(["hook", "text"], observed=False)["count"].transform("sum")
        )

    def tests(self, unit: Unit = "occurrence", *, min_group: int = MIN_GROUP) -> "pd.DataFrame":
        """Test whether the groups differ in the scores: two-sided Mann-Whitney U, for each hook, text, score and pair of groups.

        Args:
            unit: What is counted, see the class.
            min_group: Smaller groups are not tested, as they could not come out significant.

        Returns:
            The columns hook, layer, text, score ("residual", "mlp" or "attention") and those of `Comparison`: group_1, group_2, n_1, n_2, u, p, auc,
            effect (above 0: the first group has the higher scores).
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        parts: Any = self.to_frame(unit).groupby(["hook", "text"], observed=True)
        for (hook, text), part in parts:
            for kind in self.origins[hook].scores:
                values = {
                    str(group): own[f"{kind}_score"].to_numpy()
                    for group, own in part.groupby("group", observed=True)
                }
                where = {"hook": hook, "layer": int(part["layer"].iloc[0]), "text": text, "score": kind}
                rows += [{**where, **found} for found in compare_groups(values, min_group)]
        columns = [
            "hook",
            "layer",
            "text",
            "score",
            "group_1",
            "group_2",
            "n_1",
            "n_2",
            "u",
            "p",
            "auc",
            "effect",
        ]
        return pd.DataFrame(rows, columns=columns)

    def significant(
        self, unit: Unit = "occurrence", *, alpha: float = ALPHA, min_group: int = MIN_GROUP
    ) -> "pd.DataFrame":
        """Give the paper's statistic: of each score and pair of groups, the share of tests (over layers and texts) with p < alpha.

        Returns:
            The columns score, group_1, group_2, tests (how many), share (0 to 1), median_effect (−1 to 1).

        Raises:
            ValueError: `alpha` is no level.
        """
        if isinstance(alpha, bool) or not 0 < alpha < 1:
            raise ValueError(
                f"significant was given alpha = {alpha!r}. Give a level between 0 and 1, such as 0.001."
            )
        tests = self.tests(unit, min_group=min_group)
        grouped = tests.assign(below=tests["p"] < alpha).groupby(["score", "group_1", "group_2"], sort=False)
        return grouped.agg(
            tests=("p", "size"), share=("below", "mean"), median_effect=("effect", "median")
        ).reset_index()

    def with_thresholds(self, thresholds: ThresholdsLike) -> "PredecessorActivity":
        """Give the same with other thresholds for the origins by scores; as for `feature_origins`."""
        limits = thresholds_of("with_thresholds", thresholds)
        return replace(
            self, origins={hook: replace(own, thresholds=limits) for hook, own in self.origins.items()}
        )

    def plot(self, unit: Unit = "occurrence") -> "go.Figure":
        """Draw the shares of the groups by layer, over all texts; returns the figure without showing it."""
        from sae_lens_ext.analysis.flow.activity.figure import shares_figure

        return shares_figure(self.groups(unit))

    def plot_tests(
        self, unit: Unit = "occurrence", *, alpha: float = ALPHA, min_group: int = MIN_GROUP
    ) -> "go.Figure":
        """Draw, for each score, the share of significant tests of each pair of groups; returns the figure without showing it."""
        from sae_lens_ext.analysis.flow.activity.figure import tests_figure

        return tests_figure(self.significant(unit, alpha=alpha, min_group=min_group), alpha)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, its tensors as safetensors beside it, whole or not at all."""
        tensors = {f.name: getattr(self.occurrences, f.name) for f in fields(Occurrences)}
        for i, hook in enumerate(self.hooks):
            for what in _OF_ORIGINS:
                by_kind: Mapping[Kind, torch.Tensor] = getattr(self.origins[hook], what)
                tensors |= {f"{i}/{what}/{kind}": tensor for kind, tensor in by_kind.items()}
        content = {
            "hooks": list(self.hooks),
            "layers": list(self.layers),
            "origins": [
                {"thresholds": self.origins[h].thresholds.to_dict(), "provenance": self.origins[h].provenance}
                for h in self.hooks
            ],
            "text_sizes": dict(self.text_sizes),
            "n_tokens": self.n_tokens,
            "missing": list(self.missing),
            "provenance": dict(self.provenance),
        }
        save_result_with_tensors(path, FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "PredecessorActivity":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> PredecessorActivity:
            def origins(i: int) -> FeatureOrigins:
                def by_kind(what: str) -> dict[Kind, torch.Tensor]:
                    names: dict[Kind, str] = {kind: f"{i}/{what}/{kind}" for kind in LETTERS}
                    return {kind: tensors[name] for kind, name in names.items() if name in tensors}

                own = content["origins"][i]
                limits = FlowThresholds(**own["thresholds"])
                return FeatureOrigins(
                    by_kind("scores"),
                    by_kind("indices"),
                    by_kind("null_quantiles"),
                    limits,
                    own["provenance"],
                )

            return cls(
                occurrences=Occurrences(**{f.name: tensors[f.name] for f in fields(Occurrences)}),
                hooks=tuple(content["hooks"]),
                layers=tuple(content["layers"]),
                origins={hook: origins(i) for i, hook in enumerate(content["hooks"])},
                text_sizes=content["text_sizes"],
                n_tokens=content["n_tokens"],
                missing=tuple(content["missing"]),
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with predecessor_activity")

    def _text_of(self, contexts: np.ndarray) -> np.ndarray:
        """Give which text each context is of."""
        return np.repeat(np.arange(len(self.text_sizes)), list(self.text_sizes.values()))[contexts]

    def __repr__(self) -> str:
        codes = self.occurrences.group.long()
        shares = torch.bincount(codes, minlength=len(GROUPS)) / max(1, len(codes))
        samples = ", ".join(f"{n} of {text!r}" for text, n in self.text_sizes.items())
        return (
            f"PredecessorActivity of {len(codes):,} active features at {self.n_tokens:,} tokens of {len(self.hooks)} layers; samples: {samples}\n"
            f"  {', '.join(f'{share:.0%} {group}' for group, share in zip(GROUPS, shares.tolist(), strict=True) if share > 0)}\n"
            f"  {self.provenance.get('model_name')}, layers {', '.join(map(str, self.layers))}"
        )

    def _repr_html_(self) -> str:
        table = self.groups().pivot_table(
            index=["layer", "text"], columns="group", values="share", sort=False, observed=False
        )
        return notebook_view(self, table.round(3).to_html())

"""What SAEs recovered of a LowRankFeatureModel, as numbers, tables, a figure and a file."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.analysis.stability.synthetic.model import GROUPS, LowRankFeatureModel

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.FeatureRecovery/1"


@dataclass(frozen=True)
class GroupRecovery:
    """What one SAE recovered of one group of features. None stands for the mean of no latents, or for p̂ without a report."""

    sae: str
    """Name of the SAE."""
    group: str
    """Of the true features, and of the latents: "low_rank" are those with more than half of the decoder row's squared length in
    span(B), "independent" all others."""
    n_latents: int
    """Latents of the group that count."""
    reappearance: float | None
    """Mean p̂ of these latents, 0 to 1."""
    null_reappearance: float | None
    """The same against decoders turned at random within span(B) and within what is orthogonal to it: what being crowded gives."""
    truth_cosine: float
    """Mean over the group's true features of the largest signed cosine with a latent that counts, of either group, −1 to 1."""
    null_truth_cosine: float
    """The same with the SAE's decoder turned in that way."""
    latent_cosine: float | None
    """Mean over these latents of the largest signed cosine with a true feature, of either group, −1 to 1."""
    null_latent_cosine: float | None
    """The same with the SAE's decoder turned in that way."""
    projection_energy: float | None
    """Mean over these latents of the decoder row's squared length in span(B), 0 to 1. By the assignment it is above 0.5 for
    "low_rank"; how far above tells how well latents keep to the subspace."""


MEASURES = tuple(f.name for f in fields(GroupRecovery) if f.name not in ("sae", "group"))


@dataclass(frozen=True, repr=False)
class FeatureRecovery:
    """What SAEs recovered of a ground truth, group by group. See `LowRankFeatureModel.recovery`."""

    model: LowRankFeatureModel
    """The ground truth."""
    measurements: tuple[GroupRecovery, ...]
    """Two for each SAE, SAE by SAE: "independent", "low_rank"."""
    threshold: float | None
    """θ of the report that p̂ is from; None without one."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, sample, architectures, a hash of each SAE, and the provenance of the report."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the SAEs, in the order they were given."""
        return tuple(dict.fromkeys(row.sae for row in self.measurements))

    @property
    def chance_energy(self) -> float:
        """How much of a random direction lies in span(B) on average, r / d_in."""
        return self.model.rank / self.model.d_in

    def values(self, measure: str, group: str) -> list[float]:
        """Give a measure of one group by SAE, those left out that have none.

        Args:
            measure: A field of `GroupRecovery`, such as "reappearance".
            group: "independent" or "low_rank".

        Raises:
            ValueError: There is no such measure or group.
        """
        for what, given, known in (("measure", measure, MEASURES), ("group", group, GROUPS)):
            if given not in known:
                raise ValueError(
                    f"A FeatureRecovery has no {what} {given!r}. It has {', '.join(map(repr, known))}. Give one of these."
                )
        found = [getattr(row, measure) for row in self.measurements if row.group == group]
        return [value for value in found if value is not None]

    def mean(self, measure: str, group: str) -> float:
        """Give the mean over SAEs of what `values` gives; NaN if there are none."""
        values = self.values(measure, group)
        return fmean(values) if values else math.nan

    def deviation(self, measure: str, group: str) -> float:
        """Give the standard deviation over SAEs of what `values` gives; NaN of fewer than two. Those of p̂ share SAEs."""
        values = self.values(measure, group)
        return stdev(values) if len(values) > 1 else math.nan

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for each SAE and group.

        Returns:
            The columns sae, group and the measures, by the names of `GroupRecovery`; NaN where there is none.
        """
        import pandas as pd

        frame = pd.DataFrame([asdict(row) for row in self.measurements])
        return frame.astype({measure: float for measure in MEASURES if measure != "n_latents"})

    def summary(self) -> "pd.DataFrame":
        """Give a data frame with a row for each group and measure: its mean and its deviation over SAEs."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "group": group,
                    "measure": measure,
                    "mean": self.mean(measure, group),
                    "deviation": self.deviation(measure, group),
                }
                for group in GROUPS
                for measure in MEASURES
            ]
        )

    def plot(self) -> "go.Figure":
        """Draw p̂, cosines and projection energy by group, beside what chance gives; returns the figure without showing it."""
        from sae_lens_ext.analysis.stability.synthetic.figure import figure

        return figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        content = {
            "model": asdict(self.model),
            "threshold": self.threshold,
            "measurements": [asdict(row) for row in self.measurements],
            "provenance": dict(self.provenance),
        }
        save_result(path, FORMAT, content)

    @classmethod
    def load(cls, path: str | Path) -> "FeatureRecovery":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any) -> FeatureRecovery:
            return cls(
                model=LowRankFeatureModel(**content["model"]),
                measurements=tuple(GroupRecovery(**row) for row in content["measurements"]),
                threshold=content["threshold"],
                provenance=dict(content["provenance"]),
            )

        return load_result(path, FORMAT, build, "measure again with LowRankFeatureModel.recovery")

    def __repr__(self) -> str:
        model = self.model
        return (
            f"FeatureRecovery of {len(self.names)} SAEs ({', '.join(self.names[:3])}{', …' * (len(self.names) > 3)}): {model.n_independent} "
            f"independent features, {model.n_low_rank} low-rank ones in {model.rank} of {model.d_in} dimensions\n"
            + "\n".join(f"  {group}: {self._line(group)}" for group in GROUPS)
        )

    def _line(self, group: str) -> str:
        if not any(self.values("n_latents", group)):
            return f"no latents · cosine from the truth {self._beside_null('truth_cosine', group)}"
        p_hat = "" if self.threshold is None else f"p̂ {self._beside_null('reappearance', group)} · "
        return (
            f"{self.mean('n_latents', group):.1f} latents · {p_hat}cosine from the truth {self._beside_null('truth_cosine', group)}, to it "
            f"{self._beside_null('latent_cosine', group)} · energy in span(B) {self.mean('projection_energy', group):.3f}"
        )

    def _beside_null(self, measure: str, group: str) -> str:
        return f"{self.mean(measure, group):.3f} (null {self.mean(f'null_{measure}', group):.3f})"

    def _repr_html_(self) -> str:
        table = self.summary().to_html(index=False, float_format="{:.3f}".format)
        return notebook_view(self, table)

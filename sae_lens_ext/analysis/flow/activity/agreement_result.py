"""What `origin_agreement` found, as tables, a figure and a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.flow.origins import ORIGINS
from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.OriginAgreement/1"
ALL = "all"
"""Name of the row over all layers."""


@dataclass(frozen=True, repr=False, eq=False)
class OriginAgreement:
    """Origins by scores against origins by activity, for each layer and over all. See `origin_agreement`.

    The first dimension of every tensor is the layers, in the order of `layers`, and last the sum over all of them.
    """

    layers: tuple[int, ...]
    """The layers."""
    confusion: torch.Tensor
    """[n_layers + 1, 4, 4], int64: occurrences by origin by scores (rows) and by activity (columns), in the order of `ORIGINS`."""
    agreement: torch.Tensor
    """[n_layers + 1], float64, 0 to 1: share of the occurrences on which both agree; NaN where there is no occurrence."""
    chance: torch.Tensor
    """[n_layers + 1], float64, 0 to 1: share on which they would agree by chance, Σ_c (share of c by scores) (share of c by activity). Last, the
    mean of the layers', weighted by occurrences: layers differ in which origins they have at all, and that both know it is no agreement."""
    kappa: torch.Tensor
    """[n_layers + 1], float64: Cohen's kappa, (agreement − chance) / (1 − chance): 0 is chance, 1 is full agreement; NaN if chance is 1."""
    agreement_interval: torch.Tensor
    """[n_layers + 1, 2], float64: bootstrap interval of `agreement`; NaN where it has none."""
    kappa_interval: torch.Tensor
    """[n_layers + 1, 2], float64: bootstrap interval of `kappa`; NaN where it has none."""
    chance_interval: torch.Tensor
    """[n_layers + 1, 2], float64: interval of `kappa` where the origins by scores are shuffled among the features; NaN where it has none."""
    p: torch.Tensor
    """[n_layers + 1], float64, 0 to 1: share of the shufflings, the measured order counted as one, with a kappa at least as large; NaN where
    `kappa` is."""
    confidence: float
    """Coverage of all intervals, 0 to 1."""
    n_samples: int
    """Samples (contexts) that were resampled."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """That of the activity, the thresholds, and number and seed of the resamplings."""

    def to_frame(self) -> "pd.DataFrame":
        """Give a row for each layer and for all.

        Returns:
            The columns layer ("all" for the sum), occurrences, agreement, agreement_low, agreement_high, chance, kappa, kappa_low, kappa_high,
            chance_low, chance_high (of kappa), p.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": [*self.layers, ALL],
                "occurrences": self.confusion.sum(dim=(1, 2)).numpy(),
                "agreement": self.agreement.numpy(),
                "agreement_low": self.agreement_interval[:, 0].numpy(),
                "agreement_high": self.agreement_interval[:, 1].numpy(),
                "chance": self.chance.numpy(),
                "kappa": self.kappa.numpy(),
                "kappa_low": self.kappa_interval[:, 0].numpy(),
                "kappa_high": self.kappa_interval[:, 1].numpy(),
                "chance_low": self.chance_interval[:, 0].numpy(),
                "chance_high": self.chance_interval[:, 1].numpy(),
                "p": self.p.numpy(),
            }
        )

    def table(self, layer: int | None = None) -> "pd.DataFrame":
        """Give the confusion table of a layer, or of all: origins by scores down, by activity across.

        Raises:
            ValueError: There is no such layer.
        """
        import pandas as pd

        if layer is not None and layer not in self.layers:
            raise ValueError(
                f"There is no layer {layer!r}. There are {', '.join(map(str, self.layers))}. Give one of these, or None for all."
            )
        row = len(self.layers) if layer is None else self.layers.index(layer)
        return pd.DataFrame(
            self.confusion[row].numpy(),
            index=pd.Index(ORIGINS, name="by scores"),
            columns=pd.Index(ORIGINS, name="by activity"),
        )

    def plot(self) -> "go.Figure":
        """Draw kappa by layer with its intervals, and agreement beside chance; returns the figure without showing it."""
        from sae_lens_ext.analysis.flow.activity.agreement_figure import figure

        return figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, its tensors as safetensors beside it, whole or not at all."""
        content = {
            "layers": list(self.layers),
            "confidence": self.confidence,
            "n_samples": self.n_samples,
            "provenance": dict(self.provenance),
        }
        save_result_with_tensors(path, FORMAT, content, {name: getattr(self, name) for name in _TENSORS})

    @classmethod
    def load(cls, path: str | Path) -> "OriginAgreement":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> OriginAgreement:
            return cls(
                layers=tuple(content["layers"]),
                **{name: tensors[name] for name in _TENSORS},
                confidence=content["confidence"],
                n_samples=content["n_samples"],
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "compare again with origin_agreement")

    def __repr__(self) -> str:
        low, high = self.kappa_interval[-1].tolist()
        least, most = self.chance_interval[-1].tolist()
        return (
            f"OriginAgreement over {int(self.confusion[-1].sum()):,} active features of {len(self.layers)} layers, {self.n_samples} samples\n"
            f"  kappa {self.kappa[-1]:.3f} ({self.confidence:.0%} from {low:.3f} to {high:.3f}), by chance {least:.3f} to {most:.3f}; agreement {self.agreement[-1]:.1%}, by chance {self.chance[-1]:.1%}\n"
            f"  {self.provenance.get('model_name')}, layers {', '.join(map(str, self.layers))}"
        )

    def _repr_html_(self) -> str:
        return notebook_view(self, self.to_frame().round(3).to_html(index=False))


_TENSORS = (
    "confusion",
    "agreement",
    "chance",
    "kappa",
    "agreement_interval",
    "kappa_interval",
    "chance_interval",
    "p",
)

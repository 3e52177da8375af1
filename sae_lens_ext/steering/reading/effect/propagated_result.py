"""What `propagated_effect` found, as a table, a figure and a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.PropagatedEffect/1"
_TENSORS = ("mean", "mean_norm", "share", "null_share")


@dataclass(frozen=True, repr=False, eq=False)
class PropagatedEffect:
    """The mean difference Δh that each of n steerings makes at the last block's output. See `propagated_effect`."""

    labels: tuple[str, ...]
    """Names of the steerings: "layer 3" of a vector, "intervention" of an intervention."""
    layers: tuple[int | None, ...]
    """Layers of the vectors; None of an intervention."""
    mean: torch.Tensor
    """Mean of Δh = steered − unsteered over tokens, [n, d_model], float32, in the units of the residual stream."""
    mean_norm: torch.Tensor
    """Mean of ‖Δh‖ over tokens, [n], float64."""
    share: torch.Tensor
    """‖mean Δh‖ / mean ‖Δh‖, [n], float64, 0 to 1: 1 if the steering makes one and the same difference at every token. NaN if it makes none."""
    null_share: torch.Tensor
    """What the share would be if the direction of Δh were random at each token, [n], float64: √(Σ‖Δh‖²) / Σ‖Δh‖, which is 1/√n_tokens for
    equal norms. Tokens of one text are not independent, so that a share a few times this large says little."""
    n_tokens: int
    """Tokens that the means are over."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, model, hook, which tokens of which sequences, where the vectors come from."""

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for each steering: label, layer (NA of an intervention), norm_of_mean, mean_norm, share, null_share."""
        import pandas as pd

        return pd.DataFrame(
            {
                "label": self.labels,
                "layer": pd.array(list(self.layers), dtype="Int64"),
                "norm_of_mean": self.mean.double().norm(dim=1).numpy(),
                "mean_norm": self.mean_norm.numpy(),
                "share": self.share.numpy(),
                "null_share": self.null_share.numpy(),
            }
        )

    def plot(self) -> "go.Figure":
        """Draw ‖mean Δh‖ and mean ‖Δh‖ by steering, and their ratio; returns the figure without showing it."""
        from sae_lens_ext.steering.reading.effect.figure import propagated_figure

        return propagated_figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON and, beside it, its tensors.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {
            "labels": list(self.labels),
            "layers": list(self.layers),
            "n_tokens": self.n_tokens,
            "provenance": dict(self.provenance),
        }
        save_result_with_tensors(path, FORMAT, content, {name: getattr(self, name) for name in _TENSORS})

    @classmethod
    def load(cls, path: str | Path) -> "PropagatedEffect":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> PropagatedEffect:
            return cls(
                labels=tuple(content["labels"]),
                layers=tuple(content["layers"]),
                n_tokens=content["n_tokens"],
                provenance=content["provenance"],
                **{name: tensors[name] for name in _TENSORS},
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with propagated_effect")

    def __repr__(self) -> str:
        least, most = (float(value) for value in (self.mean_norm.min(), self.mean_norm.max()))
        return (
            f"PropagatedEffect of {len(self.labels)} steering{'s' * (len(self.labels) > 1)} on {self.n_tokens:,} tokens\n"
            f"  mean ‖Δh‖ {least:.3g} to {most:.3g}; share of it in the mean {float(self.share.min()):.2f} to {float(self.share.max()):.2f}\n"
            f"  {self.provenance.get('model_name')} at {self.provenance.get('hook_name')}, tokens {self.provenance.get('tokens')!r}"
        )

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3f}", na_rep="")
        return notebook_view(self, table)

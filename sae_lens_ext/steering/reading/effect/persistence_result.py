"""What `persistence` found, as a table, a figure and a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.Persistence/1"
COSINES = ("diff_vector", "diff_diff", "diff_diff_others")
_PLAIN = ("null_diff_vector", "null_diff_diff", "vector_cosine", "norm_ratio")


@dataclass(frozen=True, repr=False, eq=False)
class Persistence:
    """What each of n vectors changes at the outputs of L blocks. See `persistence`.

    Matrices are [n, L], float64: row i is the vector of layer `layers[i]`, column j is block j. NaN at the blocks before the vector's, where it
    changes nothing, and wherever a number is not defined. Intervals are [n, L, 2], lower and upper end, 95 %; NaN if there is one prompt only.
    """

    layers: tuple[int, ...]
    """Layers of the vectors, ascending."""
    diff_vector: torch.Tensor
    """mean_t cos(Δh_j(t), s_j), −1 to 1. Measured, also at j = i, where it is 1 but for rounding. NaN where block j has no vector."""
    diff_vector_interval: torch.Tensor
    """Its interval."""
    diff_diff: torch.Tensor
    """mean_t cos(Δh_j(t), mean_t' Δh_j(t')), −1 to 1. The mean holds t itself: compare with `null_diff_diff`."""
    diff_diff_interval: torch.Tensor
    """Its interval, with the mean Δh as it is."""
    diff_diff_others: torch.Tensor
    """The same with the mean over the tokens t' of other prompts' sequences (`Sequences.prompt_of`): 0 in expectation if directions are random. Of prompts that
    begin alike the first tokens do, unless `tokens` is "generated". NaN if there is one prompt only."""
    diff_diff_others_interval: torch.Tensor
    """Its interval, with these means as they are."""
    null_diff_vector: torch.Tensor
    """Standard deviation of Diff-Vector if a random direction stood for s_j: ‖mean_t Δh/‖Δh‖‖ / √d_model. Within twice this of 0 a cosine is as good as
    none."""
    null_diff_diff: torch.Tensor
    """Diff-Diff if the direction of Δh were random at each token: Σ‖Δh‖ / (n_t √(Σ‖Δh‖²)), 1/√n_t for equal norms. Tokens of one text, and copies of a prompt, are not
    independent, so that it is a lower bound of what no common direction gives."""
    vector_cosine: torch.Tensor
    """cos(s_i, s_j), −1 to 1: Diff-Vector if the blocks between left the effect as it was."""
    norm_ratio: torch.Tensor
    """mean_t ‖Δh_j(t)‖ / ‖s_i‖: 1 at j = i, above 1 where the effect has grown."""
    n_tokens: int
    """Tokens that the means are over. One at which nothing changed has no direction, and counts for the norm alone."""
    n_sequences: int
    """Sequences they are of."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hooks, which tokens of which sequences, where the vectors come from."""

    @property
    def n_blocks(self) -> int:
        """L, the model's blocks."""
        return self.diff_diff.shape[1]

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for each layer and each block from it on.

        Columns: layer, block; diff_vector, diff_diff and diff_diff_others, each with *_low and *_high; null_diff_vector, null_diff_diff, vector_cosine,
        norm_ratio.
        """
        import pandas as pd

        row, block = torch.tensor(
            [(i, j) for i, layer in enumerate(self.layers) for j in range(layer, self.n_blocks)]
        ).unbind(dim=1)
        columns: dict[str, Any] = {"layer": torch.tensor(self.layers)[row].numpy(), "block": block.numpy()}
        for name in COSINES:
            columns[name] = getattr(self, name)[row, block].numpy()
            interval = getattr(self, f"{name}_interval")[row, block]
            columns[f"{name}_low"], columns[f"{name}_high"] = interval[:, 0].numpy(), interval[:, 1].numpy()
        columns.update({name: getattr(self, name)[row, block].numpy() for name in _PLAIN})
        return pd.DataFrame(columns)

    def plot(self) -> "go.Figure":
        """Draw Diff-Vector and Diff-Diff, layer of the vector by block; returns the figure without showing it."""
        from sae_lens_ext.steering.reading.effect.figure import persistence_figure

        return persistence_figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON and, beside it, its tensors.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {
            "layers": list(self.layers),
            "n_tokens": self.n_tokens,
            "n_sequences": self.n_sequences,
            "provenance": dict(self.provenance),
        }
        save_result_with_tensors(path, FORMAT, content, {name: getattr(self, name) for name in _tensors()})

    @classmethod
    def load(cls, path: str | Path) -> "Persistence":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> Persistence:
            return cls(
                layers=tuple(content["layers"]),
                n_tokens=content["n_tokens"],
                n_sequences=content["n_sequences"],
                provenance=content["provenance"],
                **{name: tensors[name] for name in _tensors()},
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with persistence")

    def __repr__(self) -> str:
        n = len(self.layers)
        return (
            f"Persistence of {n} vector{'s' * (n > 1)} through {self.n_blocks} blocks, {self.n_tokens:,} tokens ({self.provenance.get('tokens')!r}) of "
            f"{self.n_sequences} sequence{'s' * (self.n_sequences > 1)}\n"
            f"  after the vector's own block: Diff-Vector {self._shown('diff_vector')}; Diff-Diff {self._shown('diff_diff')}\n"
            f"  {self.provenance.get('model_name')} at the layers {', '.join(map(str, self.layers))}"
        )

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        last = frame[frame["block"] == self.n_blocks - 1]
        table = last.to_html(index=False, float_format=lambda x: f"{x:.3f}", na_rep="")
        return notebook_view(self, table)

    def _shown(self, name: str) -> str:
        after = torch.arange(self.n_blocks)[None] > torch.tensor(self.layers)[:, None]
        values = getattr(self, name)[after]
        values = values[~values.isnan()]
        if len(values) == 0:
            return "of no block"
        return f"mean {float(values.mean()):.2f}, {float(values.min()):.2f} to {float(values.max()):.2f}"


def _tensors() -> list[str]:
    return [f.name for f in fields(Persistence) if f.type is torch.Tensor]

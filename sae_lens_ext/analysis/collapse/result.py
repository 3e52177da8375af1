"""What `collapse_report` found, as a table, a figure and a file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sae_lens_ext.analysis.collapse.entropy import require_alpha
from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors
from sae_lens_ext.bootstrap import Estimate, bootstrap_weights, estimate

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.CollapseReport/1"
Measure = Literal["entropy", "separability"]
_RESAMPLES = 2000


@dataclass(frozen=True, repr=False, eq=False)
class CollapseReport:
    """How far representations have collapsed, layer by layer. See `collapse_report`.

    Sites are "residual" (after each block; layer −1: before the first), "keys" and "values" (each layer's own; of a model with LIMe BEFORE routing), and
    "routed keys" and "routed values" (what attention reads, AFTER routing; only of a model with LIMe).
    """

    layers: Mapping[str, tuple[int, ...]]
    """Layers of each site, ascending."""
    widths: Mapping[str, int]
    """Dimensions d of each site; heads flattened."""
    alphas: tuple[float, ...]
    """Orders of the entropy; the first is the one shown."""
    entropies: Mapping[str, torch.Tensor]
    """S_α in nats, by site [orders, layers, sequences], float64: 0 if collapsed to a line, up to `max_entropy`."""
    fold_accuracies: Mapping[str, torch.Tensor]
    """Accuracy of the probe on each held-out fold, by site [layers, folds], 0 to 1; chance is `chance`. Empty if no words were given."""
    n_positions: int
    """Positions t of each sequence that the entropy is of."""
    words: tuple[str, ...]
    """Words that the probe tells apart, at whose own tokens it reads; empty if none were given."""
    per_word: int
    """Occurrences of each word, as many as the rarest has; 0 without words."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hooks, which tokens were read and how."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in the order they were read."""
        return tuple(self.layers)

    @property
    def n_sequences(self) -> int:
        """Sequences that the entropy is measured on."""
        return next(iter(self.entropies.values())).shape[-1]

    @property
    def max_entropy(self) -> Mapping[str, float]:
        """The largest entropy there can be, ln min(t, d), by site, nats: what as many equally strong directions as there can be would have."""
        return {site: math.log(min(self.n_positions, width)) for site, width in self.widths.items()}

    @property
    def entropy(self) -> Mapping[str, list[Estimate]]:
        """Mean S_α over sequences by site and layer, for the first order, nats, with 95 % intervals over sequences."""
        return self.entropy_at(self.alphas[0])

    def entropy_at(self, alpha: float) -> Mapping[str, list[Estimate]]:
        """Give mean S_α over sequences by site and layer, as `entropy`, for one of the orders.

        Raises:
            ValueError: It is none of those measured.
        """
        order = require_alpha("CollapseReport.entropy_at", alpha)
        if order not in self.alphas:
            raise ValueError(
                f"CollapseReport was asked for the entropy of order {alpha}, but has {', '.join(map(str, self.alphas))}. Measure again with alpha={alpha}."
            )
        return self._estimates()[self.alphas.index(order)]

    @property
    def separability(self) -> Mapping[str, list[float]]:
        """Mean accuracy over the folds by site and layer, 0 to 1; empty without words."""
        return {site: x.mean(dim=1).tolist() for site, x in self.fold_accuracies.items()}

    @property
    def separability_spread(self) -> Mapping[str, list[float]]:
        """Standard deviation of the accuracy over the folds by site and layer: how much it depends on which examples are held out. No interval of the mean."""
        return {site: x.std(dim=1).tolist() for site, x in self.fold_accuracies.items()}

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing, 1 / words; None without words."""
        return 1 / len(self.words) if self.words else None

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for each site, layer and order.

        Columns: site, layer, alpha; entropy, entropy_low, entropy_high (95 %), max_entropy, in nats; with words also separability, separability_spread,
        chance, which are the same for all orders.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        accuracy, spread = self.separability, self.separability_spread
        for alpha, of_sites in zip(self.alphas, self._estimates(), strict=True):
            for site, estimates in of_sites.items():
                for i, (layer, found) in enumerate(zip(self.layers[site], estimates, strict=True)):
                    row: dict[str, Any] = {
                        "site": site,
                        "layer": layer,
                        "alpha": alpha,
                        "entropy": found.value,
                        "entropy_low": found.low,
                        "entropy_high": found.high,
                        "max_entropy": self.max_entropy[site],
                    }
                    if self.words:
                        row |= {
                            "separability": accuracy[site][i],
                            "separability_spread": spread[site][i],
                            "chance": self.chance,
                        }
                    rows.append(row)
        return pd.DataFrame(rows).astype({"entropy_low": float, "entropy_high": float})

    def plot(self, measure: Measure | None = None) -> "go.Figure":
        """Draw entropy and separability by layer, a line for each site; returns the figure without showing it. `plot_collapse` draws several reports.

        Args:
            measure: "entropy" or "separability" alone; None for what there is.

        Raises:
            ValueError: There is no such measure in the report.
        """
        from sae_lens_ext.analysis.collapse.figure import plot_collapse

        return plot_collapse({"": self}, measure=measure)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON and, beside it, its tensors; whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {
            "layers": {site: list(layers) for site, layers in self.layers.items()},
            "widths": dict(self.widths),
            "alphas": [str(alpha) for alpha in self.alphas],  # JSON knows no infinity
            "n_positions": self.n_positions,
            "words": list(self.words),
            "per_word": self.per_word,
            "provenance": dict(self.provenance),
        }
        tensors = {f"entropies.{site}": x for site, x in self.entropies.items()}
        tensors |= {f"fold_accuracies.{site}": x for site, x in self.fold_accuracies.items()}
        save_result_with_tensors(path, FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "CollapseReport":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> CollapseReport:
            layers = {site: tuple(own) for site, own in content["layers"].items()}
            words = tuple(content["words"])
            return cls(
                layers=layers,
                widths=content["widths"],
                alphas=tuple(map(float, content["alphas"])),
                entropies={site: tensors[f"entropies.{site}"] for site in layers},
                fold_accuracies={site: tensors[f"fold_accuracies.{site}"] for site in layers if words},
                n_positions=content["n_positions"],
                words=words,
                per_word=content["per_word"],
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with collapse_report")

    def __repr__(self) -> str:
        entropy = "; ".join(
            f"{site} {_range([e.value for e in of])} of {self.max_entropy[site]:.2f}"
            for site, of in self.entropy.items()
        )
        accuracy = "; ".join(f"{site} {_range(of)}" for site, of in self.separability.items())
        told = (
            f"{' / '.join(map(repr, self.words))}, {self.per_word} of each, chance {self.chance:.2f}: {accuracy}"
            if self.words
            else "not measured"
        )
        return (
            f"CollapseReport of {self.provenance.get('model_name')}, {self.n_sequences} sequences of {self.n_positions} positions\n"
            f"  entropy (α = {self.alphas[0]:g}, nats, first to last layer): {entropy}\n"
            f"  separability ({told})"
        )

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        table = frame[frame["alpha"] == self.alphas[0]].to_html(
            index=False, float_format=lambda x: f"{x:.3f}", na_rep=""
        )
        return notebook_view(self, table)

    def _estimates(self) -> list[dict[str, list[Estimate]]]:
        """Give the mean entropies with intervals, by order, site and layer."""
        n = self.n_sequences
        weights = torch.from_numpy(bootstrap_weights(n, _RESAMPLES, 0)) / n
        found: list[dict[str, list[Estimate]]] = []
        for order in range(len(self.alphas)):
            of_samples = {site: (weights @ x[order].T).numpy() for site, x in self.entropies.items()}
            found.append({site: [estimate(one, n) for one in x.T] for site, x in of_samples.items()})
        return found


def _range(values: list[float]) -> str:
    """Say the first and the last, and the lowest between."""
    return f"{values[0]:.2f} → {values[-1]:.2f} (lowest {min(values):.2f})"

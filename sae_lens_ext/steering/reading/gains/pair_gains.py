"""Pair gains of many pairs of layers, as a table, a matrix, a figure and a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.number_checks import whole_number
from sae_lens_ext.steering.reading.gains.pair_gain import no_way, pair_gain_fields
from sae_lens_ext.steering.reading.gains.reward_ratio import ratio_provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CALLER = "pair_gains"
FORMAT = "sae_lens_ext.PairGains/1"


@dataclass(frozen=True)
class PairGainRow:
    """One pair of layers, i < j."""

    i: int
    """The lower layer."""
    j: int
    """The higher layer."""
    gain: float | None
    """g(i, j); None if there is none, for the reason given."""
    low: float | None
    """Lower end of its 95 % interval over prompts; None as for `PairGain`."""
    high: float | None
    """Upper end, or None."""
    reward_i: float
    """Mean reward with layer i alone."""
    reward_j: float
    """With layer j alone."""
    reward_pair: float
    """With both."""
    undefined: float
    """Share of the bootstrap samples without a ratio, see `PairGain`."""
    reason: str | None
    """Why there is no gain; None if there is one."""


@dataclass(frozen=True, repr=False)
class PairGains:
    """Pair gains of pairs of layers. See `pair_gains`."""

    rows: tuple[PairGainRow, ...]
    """The pairs, by i and then j."""
    layers: tuple[int, ...]
    """The layers that are in a pair, ascending."""
    reward_all: float
    """Mean reward with all layers."""
    n_prompts: int | None
    """Prompts the rewards were measured on; None if numbers were given."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, bootstrap samples."""

    @property
    def matrix(self) -> torch.Tensor:
        """Gains by layers, [n, n] in the order of `layers`, float64, symmetric; NaN on the diagonal, where there is no gain and where no pair was given."""
        found = torch.full((len(self.layers), len(self.layers)), torch.nan, dtype=torch.float64)
        for row in self.rows:
            if row.gain is not None:
                i, j = self.layers.index(row.i), self.layers.index(row.j)
                found[i, j] = found[j, i] = row.gain
        return found

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with the fields of `PairGainRow` as columns (NaN for None)."""
        import pandas as pd

        frame = pd.DataFrame([asdict(row) for row in self.rows])
        return frame.astype({"gain": float, "low": float, "high": float})

    def plot(self) -> "go.Figure":
        """Draw the matrix; returns the figure without showing it."""
        from sae_lens_ext.steering.reading.gains.figure import pairs_figure

        return pairs_figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        save_result(path, FORMAT, {**asdict(self), "provenance": dict(self.provenance)})

    @classmethod
    def load(cls, path: str | Path) -> "PairGains":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any) -> PairGains:
            return cls(
                rows=tuple(PairGainRow(**row) for row in content["rows"]),
                layers=tuple(content["layers"]),
                reward_all=content["reward_all"],
                n_prompts=content["n_prompts"],
                provenance=content["provenance"],
            )

        return load_result(path, FORMAT, build, f"compute it again with {CALLER}")

    def __repr__(self) -> str:
        known = [row for row in self.rows if row.gain is not None]
        best = max(known, key=lambda row: row.gain or 0.0, default=None)
        over = "of numbers" if self.n_prompts is None else f"over {self.n_prompts} prompts"
        return (
            f"PairGains of {len(self.rows)} pair{'s' * (len(self.rows) > 1)} of {len(self.layers)} layers {over}, {len(known)} with a gain\n"
            f"  {'no pair has a gain' if best is None else f'the largest is {best.gain:.3f}, of layers {best.i} and {best.j}'}\n"
            f"  mean reward with all layers {self.reward_all:.3f}"
        )

    def _repr_html_(self) -> str:
        table = self.to_frame().drop(columns=["undefined"])
        return notebook_view(self, table.to_html(index=False, float_format=lambda x: f"{x:.3f}", na_rep=""))


def pair_gains(
    singles: Mapping[int, Any],
    pairs: Mapping[tuple[int, int], Any],
    all_layers: Any,
    *,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> PairGains:
    """Give the pair gain of each of some pairs of layers; see `pair_gain`.

    Where all layers are no better than the better of the two, there is no gain: None, with the reason, instead of an error.

    Args:
        singles: Mean reward with one layer's vector alone, by layer: numbers or measurements, as for `pair_gain`.
        pairs: With two, trained together, by the two layers, in either order.
        all_layers: With those of all layers.
        n_resamples: Bootstrap samples of the prompts, if measurements were given; the same prompts for all.
        seed: Of these.

    Raises:
        ValueError: There is no pair; one is of one layer, given twice, or of a layer that is not among the singles; or as for `pair_gain`.
    """
    require_positive_int(CALLER, "n_resamples", n_resamples)
    rows: list[PairGainRow] = []
    found: dict[str, Any] = {}
    for (i, j), pair in sorted(_ordered(singles, pairs).items()):
        given = {"r_i": singles[i], "r_j": singles[j], "r_ij": pair, "r_all": all_layers}
        found = pair_gain_fields(f"{CALLER} for layers {i} and {j}", given, n_resamples, seed)
        means = {name: one.value for name, one in found["parts"].items()}
        rows.append(
            PairGainRow(
                i,
                j,
                found["value"],
                found["low"],
                found["high"],
                means["r_i"],
                means["r_j"],
                means["r_ij"],
                found["undefined"],
                None if found["value"] is not None else f"There are {no_way(found)}",
            )
        )
    return PairGains(
        rows=tuple(rows),
        layers=tuple(sorted({layer for row in rows for layer in (row.i, row.j)})),
        reward_all=found["parts"]["r_all"].value,
        n_prompts=found["n_prompts"],
        provenance=ratio_provenance(n_resamples, seed),
    )


def _ordered(singles: Any, pairs: Any) -> dict[tuple[int, int], Any]:
    """Give the pairs by (lower, higher) layer."""
    for name, value in (("singles", singles), ("pairs", pairs)):
        if not isinstance(value, Mapping) or not value:
            raise ValueError(
                f"{CALLER} was given {name} = {value!r:.60}. Give a mapping, such as {{3: 0.4, 7: 0.5}} and {{(3, 7): 0.6}}."
            )
    ordered: dict[tuple[int, int], Any] = {}
    for key, value in pairs.items():
        layers = key if isinstance(key, tuple) else ()
        if len(layers) != 2 or any(whole_number(layer) is None for layer in layers) or layers[0] == layers[1]:
            raise ValueError(f"{CALLER} was given a pair {key!r}. Give two different layers, such as (3, 7).")
        absent = next((layer for layer in layers if layer not in singles), None)
        if absent is not None:
            raise ValueError(
                f"{CALLER} was given the pair {key!r}, but no reward of layer {absent} alone. Give it in singles."
            )
        both = (min(layers), max(layers))
        if both in ordered:
            raise ValueError(f"{CALLER} was given the pair {both} in both orders. Give it once.")
        ordered[both] = value
    return ordered

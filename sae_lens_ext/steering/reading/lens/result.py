"""What the logit lens found: for each vector the tokens at both ends, as a table, a figure and a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.number_checks import whole_number
from sae_lens_ext.steering.reading.lens.final_norm import Kind
from sae_lens_ext.steering.reading.lens.ranking import Measure
from sae_lens_ext.steering.reading.lens.shown import shown_token
from sae_lens_ext.steering.reading.lens.unembedding import State

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Side = Literal["top", "bottom"]
SIDES: tuple[Side, ...] = ("top", "bottom")

FORMAT = "sae_lens_ext.LogitLensResult/1"
_TENSORS = ("top_ids", "top_values", "bottom_ids", "bottom_values")
IN_NOTEBOOK = 6
"""Tokens of each side in a notebook's table."""


@dataclass(frozen=True, eq=False, repr=False)
class LogitLensResult:
    """The tokens that vectors point to most, and least. See `logit_lens`."""

    labels: tuple[str, ...]
    """Names of the vectors."""
    layers: tuple[int | None, ...]
    """The layer of each; None of a vector that has none."""
    norms: tuple[float, ...]
    """‖x‖ of each as it was given, before any gain; in the units of the residual stream."""
    top_ids: torch.Tensor
    """Tokens with the largest values, descending, [n_vectors, k], int64; of equal values the lower id is first."""
    top_values: torch.Tensor
    """Their values, [n_vectors, k], float32; positive is raised by the vector."""
    bottom_ids: torch.Tensor
    """Tokens with the smallest values, ascending, [n_vectors, k], int64; of equal values the lower id is first."""
    bottom_values: torch.Tensor
    """Their values, [n_vectors, k], float32; negative is lowered by the vector."""
    tokens: Mapping[int, str]
    """The tokens named above as text, each decoded by itself, with the space it begins with."""
    measure: Measure
    """"cosine" (−1 to 1) or "dot"."""
    final_norm: Kind | None
    """The final norm whose gain multiplied the vectors, "LayerNorm" (which also took their mean away) or "RMSNorm"; None if none did."""
    unembedding: State
    """"as trained", or "with the final norm folded in": then the values have its gain in them whatever `final_norm` says."""
    unembedding_centred: bool
    """Whether the mean over all tokens was taken off W_U, which takes the same number from all dot products of a vector."""
    n_tokens: int
    """Tokens that were ranked: those the tokenizer knows."""
    random_largest: float
    """What the largest |value| of any token stays below for 95 in 100 random directions (isotropic, seeded), read in the same way; for "dot", of vectors of
    length 1. An end of the list that does not exceed it says no more than chance; of twenty vectors without meaning one exceeds it. It is a weak test: any
    vector that leans to where most of W_U points passes it."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, columns of W_U left out, and where steering vectors came from."""

    @property
    def null_cosine(self) -> float | None:
        """`random_largest`, if the measure is the cosine."""
        return self.random_largest if self.measure == "cosine" else None

    def null_of(self, vector: int | str | None = None) -> float:
        """Give the |value| that 95 in 100 random vectors as long as this one stay below: `random_largest`, for "dot" times ‖x‖.

        Args:
            vector: As for `top`.
        """
        return self._null(self._index(vector))

    def top(self, vector: int | str | None = None, n: int = 10) -> list[tuple[str, float]]:
        """Give the tokens with the largest values, descending, with these.

        Args:
            vector: A layer, or a label; None if there is one vector.
            n: How many, at most.

        Raises:
            ValueError: There is no such vector, or several; or n is no positive whole number.
        """
        return self.at("top", vector, n)

    def bottom(self, vector: int | str | None = None, n: int = 10) -> list[tuple[str, float]]:
        """Give the tokens with the smallest values, ascending, with these. As `top`."""
        return self.at("bottom", vector, n)

    def at(self, side: Side, vector: int | str | None = None, n: int = 10) -> list[tuple[str, float]]:
        """Give the tokens at one end, "top" or "bottom", with their values. As `top`."""
        require_positive_int("LogitLensResult", "n", n)
        if side not in SIDES:
            raise ValueError(f"LogitLensResult was asked for the side {side!r}. Give 'top' or 'bottom'.")
        return self._at(side, self._index(vector), n)

    def formula(self) -> str:
        """Say what the values are, in symbols, such as "cos(W_U[v], γ ∘ x)"; a γ that is folded into W_U is not written."""
        x = "(x − mean x)" if self.final_norm == "LayerNorm" else "x"
        if self.final_norm is not None and self.unembedding == "as trained":
            x = f"γ ∘ {x}"
        if self.measure == "cosine":
            return f"cos(W_U[v], {x})"
        return f"W_U[v] · ({x})" if "∘" in x else f"W_U[v] · {x}"

    def reading(self) -> str:
        """Say how the vectors were read: the formula, the final norm, and what was done to W_U."""
        norm = "without the final norm" if self.final_norm is None else f"γ of the final {self.final_norm}"
        if self.unembedding != "as trained":
            norm = "the final norm's γ is folded into W_U"
        centred = "; W_U centred over tokens" if self.unembedding_centred else ""
        return f"{self.formula()}, {norm}{centred}"

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row per vector, side and rank.

        Columns: `layer` (whole numbers; <NA> of vectors without one), `rank` from 1, `token` (its text), `token_id`, `value`, `side` ("top", descending; "bottom",
        ascending); where a layer does not say which of several vectors it is, also `vector`, the label.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, (label, layer) in enumerate(zip(self.labels, self.layers, strict=True)):
            for side in SIDES:
                ids = self._ends(side)[0][i].tolist()
                rows.extend(
                    {
                        "layer": layer,
                        "rank": rank,
                        "token": token,
                        "token_id": ids[rank - 1],
                        "value": value,
                        "side": side,
                        "vector": label,
                    }
                    for rank, (token, value) in enumerate(self._at(side, i), start=1)
                )
        frame = pd.DataFrame(rows).astype({"layer": "Int64"})
        known = None not in self.layers and len(set(self.layers)) == len(self.layers)
        return frame.drop(columns="vector") if known or len(self.labels) == 1 else frame

    def plot(self, n: int | None = None) -> "go.Figure":
        """Draw the tokens at both ends: of several vectors a table, a row each, coloured by value; of one vector bars. Returns the figure without showing it.

        Args:
            n: Tokens of each side; by default 6 for several vectors, 20 for one.
        """
        from sae_lens_ext.steering.reading.lens.figure import figure

        if n is not None:
            require_positive_int("LogitLensResult.plot", "n", n)
        return figure(self, n)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON with safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TENSORS}
        content["provenance"] = dict(self.provenance)
        content["tokens"] = {str(token): text for token, text in self.tokens.items()}
        save_result_with_tensors(path, FORMAT, content, {name: getattr(self, name) for name in _TENSORS})

    @classmethod
    def load(cls, path: str | Path) -> "LogitLensResult":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: Any) -> LogitLensResult:
            others: Any = {f.name: content[f.name] for f in fields(cls) if f.name not in _TENSORS}
            for name in ("labels", "layers", "norms"):
                others[name] = tuple(others[name])
            others["tokens"] = {int(token): text for token, text in others["tokens"].items()}
            return cls(**others, **{name: tensors[name] for name in _TENSORS})

        return load_result_with_tensors(path, FORMAT, build, "read again with logit_lens")

    def __repr__(self) -> str:
        kind = "propagated effect" if self.provenance.get("read") == "PropagatedEffect" else "vector"
        what = f"{len(self.labels)} {kind}s" if len(self.labels) > 1 else f"1 {kind}"
        nulls = [self._null(i) for i in range(len(self.labels))]
        i = max(range(len(nulls)), key=lambda i: float(self.top_values[i, 0]) / (nulls[i] or 1.0))
        best = " ".join(shown_token(token) for token, _ in self._at("top", i, 5))
        return (
            f"LogitLensResult of {what}, {self.n_tokens:,} tokens of {self.provenance.get('model_name')}\n"
            f"  {self.reading()}\n"
            f"  {self.labels[i]}: {best} (the first has {self.top_values[i, 0]:.3g}; 95 % of random vectors stay below {nulls[i]:.3g})"
        )

    def _repr_html_(self) -> str:
        import pandas as pd

        def ends(i: int) -> dict[str, str]:
            return {
                side: "  ".join(
                    f"{shown_token(token)} {value:.2f}" for token, value in self._at(side, i, IN_NOTEBOOK)
                )
                for side in SIDES
            }

        rows = [{"vector": label, "‖x‖": self.norms[i], **ends(i)} for i, label in enumerate(self.labels)]
        with pd.option_context("display.max_colwidth", None):
            table = pd.DataFrame(rows).to_html(index=False, float_format=lambda x: f"{x:.3g}")
        return notebook_view(self, table)

    def _null(self, i: int) -> float:
        return self.random_largest * (1.0 if self.measure == "cosine" else self.norms[i])

    def _at(self, side: Side, i: int, n: int | None = None) -> list[tuple[str, float]]:
        ids, values = self._ends(side)
        return [
            (self.tokens[token], value)
            for token, value in zip(ids[i, :n].tolist(), values[i, :n].tolist(), strict=True)
        ]

    def _ends(self, side: Side) -> tuple[torch.Tensor, torch.Tensor]:
        return (self.top_ids, self.top_values) if side == "top" else (self.bottom_ids, self.bottom_values)

    def _index(self, vector: int | str | None) -> int:
        """Give the position of a vector."""
        if vector is None:
            found = list(range(len(self.labels)))
        elif isinstance(vector, str):
            found = [i for i, label in enumerate(self.labels) if label == vector]
        else:
            layer = whole_number(vector)
            found = [i for i, own in enumerate(self.layers) if own is not None and own == layer]
        if len(found) != 1:
            many = f"{len(found)} vectors" if found else "no vector"
            known = ", ".join(map(repr, self.labels[:8])) + (", ..." if len(self.labels) > 8 else "")
            raise ValueError(
                f"LogitLensResult was asked for {vector!r}, which is {many}. Give the layer or the label of one of {known}."
            )
        return found[0]

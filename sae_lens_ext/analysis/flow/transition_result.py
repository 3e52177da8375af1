"""What `transition_explained_variance` found, as a table, a figure and a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result, save_result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.TransitionResult/1"
BASELINES = ("reconstruction", "carried over", "bias", "mean")


@dataclass(frozen=True)
class TransitionRow:
    """How well one prediction explains the later activations."""

    name: str
    """A match ("cosine", "permutation" or the given one's name), or a baseline: "reconstruction", what the second SAE makes of the later
    activations themselves, an upper mark; "carried over", the first SAE's reconstruction of the earlier ones as it is; "bias", the
    second's b_dec alone; "mean", their mean, which explains 0 by definition."""
    folded: bool
    """Activations went over in units of thresholds."""
    ev: float
    """Explained variance, 1 − Σ‖x' − x̂'‖² / Σ‖x' − mean x'‖² over tokens (SAELens' `explained_variance`); negative is worse than the mean."""
    share_matched: float | None
    """Share of the first SAE's activation, in units of unit rows, whose features have a match, 0 to 1; None for baselines."""


@dataclass(frozen=True, repr=False)
class TransitionResult:
    """Explained variance of matches used as transcoders. See `transition_explained_variance`."""

    rows: tuple[TransitionRow, ...]
    """Matches first, then baselines."""
    hook_from: str
    """Where the first SAE reads."""
    hook_to: str
    """Where the second one does, and what is predicted."""
    n_tokens: int
    """Tokens that counted."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, a hash of the tokens read."""

    def at(self, name: str, *, folded: bool = False) -> TransitionRow:
        """Give the row of a match or baseline.

        Raises:
            ValueError: There is none.
        """
        for row in self.rows:
            if (row.name, row.folded) == (name, folded):
                return row
        raise ValueError(
            f"This result has no {name!r} with folded = {folded}. It has {', '.join(f'{r.name!r} ({r.folded})' for r in self.rows)}. Give one of these."
        )

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with the columns name, folded, ev, share_matched (NaN for None)."""
        import pandas as pd

        frame = pd.DataFrame(
            [asdict(row) for row in self.rows], columns=[f.name for f in fields(TransitionRow)]
        )
        return frame.astype({"share_matched": float})

    def plot(self) -> "go.Figure":
        """Draw a bar for each match and a line for each baseline; returns the figure without showing it."""
        import plotly.graph_objects as go
        from plotly.colors import qualitative

        matches = [row for row in self.rows if row.name not in BASELINES]
        names = [escape(row.name, quote=False) for row in matches]
        labels = [f"{n}, thresholds folded" if r.folded else n for n, r in zip(names, matches, strict=True)]
        drawing = go.Figure()
        drawing.add_bar(
            x=labels,
            y=[row.ev for row in matches],
            text=[f"{row.ev:.3f}" for row in matches],
            marker_color=qualitative.Safe[0],
        )
        for row in self.rows:
            if row.name in BASELINES:
                drawing.add_hline(y=row.ev, line_dash="dot", annotation_text=row.name)
        drawing.update_layout(
            template="plotly_white",
            title_text=escape(f"{self.hook_from} → {self.hook_to}", quote=False),
            yaxis_title="explained variance",
            margin={"l": 60, "r": 20, "t": 60, "b": 40},
            height=420,
        )
        return drawing

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content |= {"rows": [asdict(row) for row in self.rows], "provenance": dict(self.provenance)}
        save_result(path, FORMAT, content)

    @classmethod
    def load(cls, path: str | Path) -> "TransitionResult":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any) -> TransitionResult:
            rows = tuple(TransitionRow(**row) for row in content["rows"])
            return cls(rows=rows, **{f.name: content[f.name] for f in fields(cls) if f.name != "rows"})

        return load_result(path, FORMAT, build, "measure again with transition_explained_variance")

    def __repr__(self) -> str:
        found = ", ".join(f"{row.name}{' (folded)' * row.folded} {row.ev:.3f}" for row in self.rows)
        return (
            f"TransitionResult {self.hook_from} → {self.hook_to}, on {self.n_tokens:,} tokens\n"
            f"  EV: {found}\n"
            f"  {self.provenance.get('model_name')}"
        )

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.4f}", na_rep="")
        return notebook_view(self, table)

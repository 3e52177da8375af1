"""What `path_patching` found, as tables, a figure and a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.bootstrap import Estimate
from sae_lens_ext.steering.reading.path_patching.modes import PathMode

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.PathPatching/1"


@dataclass(frozen=True)
class PathRow:
    """What one mode leaves of the vector's effect.

    Means over all generated tokens, with a 95 % bootstrap interval over the sequences; the reward's is over the prompts. None where
    there were no sequences, or no prompts.
    """

    mode: str
    """As `PathMode.parse` reads it."""
    kl_to_reference: Estimate | None
    """KL(P_reference‖P_mode), nats per token; 0 is the same prediction."""
    kl_to_base: Estimate | None
    """KL(P_base‖P_mode), nats per token."""
    effect_kept: Estimate | None
    """1 − KL(P_full‖P_mode) / KL(P_full‖P_base): 1 is all of the vector's effect, 0 as much as none; negative is further off than base is. None also where
    the vector changes nothing."""
    agreement: Estimate | None
    """Share of tokens at which the likeliest one is the reference's, 0 to 1."""
    delta_p: Estimate | None
    """p_mode − p_reference of the token that came; positive is likelier in this mode."""
    p: Estimate | None
    """p_mode of the token that came, 0 to 1."""
    reward: Estimate | None
    """Mean reward of what the model writes in this mode; the task's accuracy if the reward is 0 or 1."""

    @classmethod
    def of(cls, mode: PathMode, measured: Mapping[str, Estimate | None]) -> "PathRow":
        """Make a row of what was measured."""
        return cls(mode.name, **{f.name: measured.get(f.name) for f in fields(cls) if f.name != "mode"})


MEASURES = tuple(f.name for f in fields(PathRow) if f.name != "mode")


@dataclass(frozen=True, repr=False)
class PathPatching:
    """Which paths through a block a steering vector takes. See `path_patching`."""

    rows: tuple[PathRow, ...]
    """One for each mode, in the order asked for; modes of single heads after those of the whole block."""
    layer: int
    """L: the vector enters block L + 1."""
    reference: str
    """The mode that KL, agreement and Δp are against."""
    n_tokens: int
    """Generated tokens that were predicted; 0 without sequences."""
    n_sequences: int
    """Sequences with a generated token."""
    identities: Mapping[str, float]
    """What was found to hold on the first batch: the largest difference of a logit as a share of the largest logit, by identity."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hooks, tokens read, the vector's norm, and how completions were sampled."""

    def at(self, mode: "PathMode | str") -> PathRow:
        """Give the row of a mode.

        Raises:
            ValueError: There is no such mode, or it was not measured.
        """
        name = PathMode.parse(mode).name
        found = next((row for row in self.rows if row.mode == name), None)
        if found is None:
            raise ValueError(
                f"The mode {name!r} was not measured. There are {', '.join(row.mode for row in self.rows)}. Give one of these."
            )
        return found

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row per mode.

        Columns are `mode`, and `kind`, `part` and `head` of it; each measure, and the ends of its interval as *_low and *_high (NaN for None).
        """
        import pandas as pd

        frame = pd.DataFrame([_flat(row) for row in self.rows])
        numbers = [name for name in frame.columns if name not in ("mode", "kind", "part", "head")]
        return frame.astype({**dict.fromkeys(numbers, float), "head": "Int64"})

    def plot(self) -> "go.Figure":
        """Draw what the modes of the whole block leave of the effect, or `plot_heads` if there are none; returns the figure without showing it."""
        from sae_lens_ext.steering.reading.path_patching.figure import bars_figure, heads_figure

        of_heads = all(PathMode.parse(row.mode).of_head for row in self.rows)
        return heads_figure(self) if of_heads else bars_figure(self)

    def plot_heads(self) -> "go.Figure":
        """Draw a map, q, k and v × head, of the share of the effect that is lost with one head vanilla, and won with only one steered.

        Raises:
            ValueError: No mode of a single head was measured.
        """
        from sae_lens_ext.steering.reading.path_patching.figure import heads_figure

        return heads_figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        content = {**asdict(self), "identities": dict(self.identities), "provenance": dict(self.provenance)}
        save_result(path, FORMAT, content)

    @classmethod
    def load(cls, path: str | Path) -> "PathPatching":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any) -> PathPatching:
            others: Any = {f.name: content[f.name] for f in fields(cls)}
            loaded: Any = {**others, "rows": tuple(map(_row, content["rows"]))}
            return cls(**loaded)

        return load_result(path, FORMAT, build, "measure again with path_patching")

    def __repr__(self) -> str:
        whole = [row for row in self.rows if not PathMode.parse(row.mode).of_head]
        shown = "; ".join(f"{row.mode} {_short(row)}" for row in whole or self.rows[:4])
        worst = max(self.identities.values())
        return (
            f"PathPatching of a vector that enters block {self.layer + 1}, {len(self.rows)} modes against {self.reference}, {self.n_tokens} tokens of "
            f"{self.n_sequences} sequences\n"
            f"  {shown}\n"
            f"  {self.provenance.get('model_name')}; identities hold to {worst:.0e} of the largest logit"
        )

    def _repr_html_(self) -> str:
        table = self.to_frame()[["mode", *MEASURES]].dropna(axis=1, how="all")
        return notebook_view(self, table.to_html(index=False, float_format=lambda x: f"{x:.4g}", na_rep=""))


def _short(row: PathRow) -> str:
    shown: list[str] = []
    if row.effect_kept is not None:
        shown.append(f"keeps {row.effect_kept.value:.0%}")
    elif row.kl_to_reference is not None:
        shown.append(f"KL {row.kl_to_reference.value:.3g}")
    if row.reward is not None:
        shown.append(f"reward {row.reward.value:.3f}")
    return ", ".join(shown)


def _flat(row: PathRow) -> dict[str, Any]:
    mode = PathMode.parse(row.mode)
    flat: dict[str, Any] = {"mode": row.mode, "kind": mode.kind, "part": mode.part, "head": mode.head}
    for name in MEASURES:
        found: Estimate | None = getattr(row, name)
        flat[name] = None if found is None else found.value
        flat[f"{name}_low"] = None if found is None else found.low
        flat[f"{name}_high"] = None if found is None else found.high
    return flat


def _row(content: Any) -> PathRow:
    measures = {name: content[name] and Estimate(**content[name]) for name in MEASURES}
    return PathRow.of(PathMode.parse(content["mode"]), measures)

"""What `masking_curve` found, as a table, a comparison, a figure and a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.analysis.stability.masking.subsets import GROUPS, MULTIPLE
from sae_lens_ext.analysis.stability.report import STABLE, UNSTABLE

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.MaskingCurve/1"


@dataclass(frozen=True)
class MaskingRow:
    """One set of latents set to 0."""

    group: str
    """What was masked: "stable" or "unstable" latents, or "frequency-matched": stable ones that fire as often as the unstable ones of
    the same draw and count."""
    n_masked: int
    """How many latents."""
    draw: int
    """Which random order they come from, from 0."""
    ev: float
    """Explained variance, 1 − Σ‖x − x̂‖² / Σ‖x − mean x‖² over all tokens (SAELens' `explained_variance`)."""
    ce: float | None
    """Cross-entropy with the reconstruction in place of the activations, nats per token; None if it was not measured."""
    mean_firing_rate: float | None
    """Mean over the latents masked of the share of these tokens on which each fires, 0 to 1; None if none was masked."""
    share_of_activation: float
    """Sum of the absolute activations of the latents masked, as a share of that of all latents, 0 to 1."""


@dataclass(frozen=True)
class MaskingLoss:
    """What masking a number of latents of one group loses, draw by draw."""

    group: str
    """As in `MaskingRow`."""
    n_masked: int
    """How many latents."""
    ev_lost: tuple[float, ...]
    """By draw: EV with nothing masked − EV with these; positive is worse."""
    ce_added: tuple[float, ...] | None
    """By draw: cross-entropy with these masked − with nothing masked, nats per token; positive is worse. None if not measured."""
    mean_firing_rate: float
    """Mean firing rate of the latents masked, 0 to 1, over all draws."""

    def __str__(self) -> str:
        ce = "" if self.ce_added is None else f", adds {_spread(self.ce_added)} nats"
        return f"{self.n_masked:,} {self.group} latents (firing rate {self.mean_firing_rate:.2%}): loses {_spread(self.ev_lost)} of EV{ce}"


@dataclass(frozen=True, repr=False)
class Asymmetry:
    """The paper's comparison: some stable latents masked, and several times as many unstable ones. See `MaskingCurve.asymmetry`."""

    stable: MaskingLoss
    """What masking N stable latents loses."""
    unstable: MaskingLoss
    """What masking more unstable ones loses."""
    wanted: float
    """How many unstable latents for each stable one were asked for."""
    n_unstable: int
    """How many unstable latents there are."""

    @property
    def multiple(self) -> float:
        """How many unstable latents were masked for each stable one; less than `wanted` where there are or were measured no more."""
        return self.unstable.n_masked / self.stable.n_masked

    def __repr__(self) -> str:
        short = ""
        if self.multiple < self.wanted:
            all_masked = self.unstable.n_masked == self.n_unstable
            why = "these are all there are" if all_masked else "no count nearer to it was measured"
            short = f", not {self.wanted:g}: {why}"
        return f"masking {self.stable}\nmasking {self.unstable}\n{self.multiple:.3g} unstable for each stable one{short}"


@dataclass(frozen=True, repr=False)
class MaskingCurve:
    """EV and cross-entropy against how many latents of a group are masked. See `masking_curve`."""

    rows: tuple[MaskingRow, ...]
    """By group, draw and number masked; each curve begins with a row of 0."""
    sae: str
    """Name of the SAE in the report."""
    n_stable: int
    """How many stable latents it has."""
    n_unstable: int
    """How many unstable ones."""
    ev: float
    """Explained variance with nothing masked."""
    ce: float | None
    """Cross-entropy of the model left alone, nats per token; None if not measured, as the next."""
    ce_with: float | None
    """Cross-entropy with the SAE's reconstruction and nothing masked, nats per token."""
    n_tokens: int
    """Tokens that EV and firing rates were measured on; special tokens do not count."""
    n_predictions: int
    """Predicted tokens that cross-entropy was measured on; 0 if it was not."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hook, the tokens read, and a hash of the SAE."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that were measured."""
        return tuple(group for group in GROUPS if any(row.group == group for row in self.rows))

    def counts(self, group: str) -> tuple[int, ...]:
        """Give how many latents of a group were masked, ascending, 0 first; nothing if the group was not measured."""
        return tuple(sorted({row.n_masked for row in self.rows if row.group == group}))

    def at(self, group: str, n_masked: int) -> tuple[MaskingRow, ...]:
        """Give the rows of all draws with so many latents of a group masked.

        Raises:
            ValueError: There are none.
        """
        found = tuple(row for row in self.rows if (row.group, row.n_masked) == (group, n_masked))
        if not found:
            measured = "; ".join(f"{name}: {', '.join(map(str, self.counts(name)))}" for name in self.groups)
            raise ValueError(
                f"This curve has no row with {n_masked} latents of the group {group!r} masked. It has {measured}. Give one of these."
            )
        return found

    def loss(self, group: str, n_masked: int) -> MaskingLoss:
        """Give what masking so many latents of a group loses, draw by draw.

        Raises:
            ValueError: That was not measured.
        """
        rows = self.at(group, n_masked)
        ce = None
        if self.ce_with is not None:
            ce = tuple(row.ce - self.ce_with for row in rows if row.ce is not None)
        return MaskingLoss(
            group=group,
            n_masked=n_masked,
            ev_lost=tuple(self.ev - row.ev for row in rows),
            ce_added=ce,
            mean_firing_rate=fmean(row.mean_firing_rate or 0.0 for row in rows),
        )

    def asymmetry(self, n_stable: int | None = None, *, multiple: float = MULTIPLE) -> Asymmetry:
        """Compare masking N stable latents with masking 4N unstable ones (arXiv 2606.12138).

        Args:
            n_stable: N, a count that was measured; by default the largest, which is all stable latents unless counts were given.
            multiple: How many unstable latents for each stable one. Taken is the largest count measured that is not more.

        Returns:
            Both losses, with their spread over the draws, and the multiple that there really is: less than was asked for where there
            are not so many unstable latents, or other counts were measured.

        Raises:
            ValueError: Nothing of that kind was measured.
        """
        if n_stable is None:
            n_stable = max(self.counts(STABLE), default=0)
        if n_stable == 0:
            raise ValueError(
                f"This curve has no stable latents masked to compare with. Measure counts of at most {self.n_stable}."
            )
        stable = self.loss(STABLE, n_stable)
        n_unstable = max((n for n in self.counts(UNSTABLE) if n <= multiple * n_stable), default=0)
        if n_unstable == 0:
            raise ValueError(
                f"This curve has no count of unstable latents from 1 to {multiple:g} × {n_stable}. Measure counts of at most {self.n_unstable}."
            )
        return Asymmetry(stable, self.loss(UNSTABLE, n_unstable), multiple, self.n_unstable)

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with the columns group, n_masked, draw, ev, ce, mean_firing_rate, share_of_activation (NaN for None)."""
        import pandas as pd

        names = [f.name for f in fields(MaskingRow)]
        frame = pd.DataFrame([asdict(row) for row in self.rows], columns=names)
        return frame.astype({"ce": float, "mean_firing_rate": float})

    def summary(self) -> "pd.DataFrame":
        """Give a data frame with a row for each group and count: the mean over draws of every number."""
        import pandas as pd

        frame = self.to_frame().drop(columns="draw")
        return pd.DataFrame(frame.groupby(["group", "n_masked"], sort=False, as_index=False).mean())

    def plot(self) -> "go.Figure":
        """Draw EV and cross-entropy against the number masked; returns the figure without showing it."""
        from sae_lens_ext.analysis.stability.masking.figure import figure

        return figure(self)

    def save(self, path: str | Path) -> None:
        """Write the curve as JSON, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content |= {"rows": [asdict(row) for row in self.rows], "provenance": dict(self.provenance)}
        save_result(path, FORMAT, content)

    @classmethod
    def load(cls, path: str | Path) -> "MaskingCurve":
        """Read a curve that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole curve.
        """

        def build(content: Any) -> MaskingCurve:
            rows = tuple(MaskingRow(**row) for row in content["rows"])
            others = {f.name: content[f.name] for f in fields(cls) if f.name != "rows"}
            return cls(rows=rows, **others)

        return load_result(path, FORMAT, build, "measure again with masking_curve")

    def __repr__(self) -> str:
        ce = "" if self.ce_with is None else f" · CE {self.ce:.3f} nats, with the SAE {self.ce_with:.3f}"
        largest = [self.loss(group, max(self.counts(group))) for group in self.groups]
        return (
            f"MaskingCurve of {self.sae}, {self.n_stable:,} stable and {self.n_unstable:,} unstable latents, on {self.n_tokens:,} tokens; EV {self.ev:.3f}{ce}\n"
            + "".join(f"  masking {loss}\n" for loss in largest)
            + f"  {self.provenance.get('model_name')} at {self.provenance.get('hook_name')}"
        )

    def _repr_html_(self) -> str:
        table = self.summary().to_html(index=False, float_format=lambda x: f"{x:.4f}", na_rep="")
        return notebook_view(self, table)


def _spread(numbers: tuple[float, ...]) -> str:
    """Write a mean with its smallest and largest."""
    mean, least, most = (f"{number:.3f}" for number in (fmean(numbers), min(numbers), max(numbers)))
    return mean if least == most else f"{mean} ({least} to {most})"

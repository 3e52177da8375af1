"""What `evaluate_domains` found, as a table, a figure and a file."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_ext.analysis.result_files import load_result, save_result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.DomainReport/1"
COLUMNS = ("sae", "domain", "ev", "ce", "ce_with", "ce_score", "l0")


@dataclass(frozen=True)
class DomainMeasurement:
    """One SAE on one domain's text."""

    sae: str
    """Name of the SAE, as the caller gave it."""
    domain: str
    """Name of the text."""
    ev: float
    """Explained variance, 1 − Σ‖x − x̂‖² / Σ‖x − mean x‖² over all tokens (SAELens' `explained_variance`)."""
    ce: float
    """Cross-entropy of the model left alone, nats per token."""
    ce_with: float
    """Cross-entropy with the SAE's reconstruction in place of the activations, nats per token."""
    ce_ablated: float
    """Cross-entropy with zeros in place of the activations, nats per token."""
    l0: float
    """Mean number of latents that are not 0, per token."""
    n_tokens: int
    """Tokens that EV and L0 were measured on; special tokens do not count."""

    @property
    def ce_score(self) -> float:
        """(ce_ablated − ce_with) / (ce_ablated − ce): 1 costs nothing, 0 as much as zeros; NaN if zeros cost nothing."""
        return _ratio(self.ce_ablated - self.ce_with, self.ce_ablated - self.ce)


@dataclass(frozen=True, repr=False)
class DomainReport:
    """Every SAE on every domain. See `evaluate_domains`."""

    measurements: tuple[DomainMeasurement, ...]
    """One for each SAE and domain, SAE by SAE."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hooks and how the text was read."""

    @property
    def saes(self) -> tuple[str, ...]:
        """Names of the SAEs, in the order they were given."""
        return tuple(dict.fromkeys(row.sae for row in self.measurements))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order they were given."""
        return tuple(dict.fromkeys(row.domain for row in self.measurements))

    def at(self, sae: str, domain: str) -> DomainMeasurement:
        """Give the measurement of one SAE on one domain.

        Raises:
            ValueError: There is none of that name.
        """
        for row in self.measurements:
            if (row.sae, row.domain) == (sae, domain):
                return row
        raise ValueError(
            f"This report has no measurement of {sae!r} on {domain!r}. It has the SAEs {', '.join(map(repr, self.saes))} "
            f"and the domains {', '.join(map(repr, self.domains))}. Give one of these."
        )

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with the columns sae, domain, ev, ce, ce_with, ce_score, l0."""
        import pandas as pd

        rows = [{name: getattr(row, name) for name in COLUMNS} for row in self.measurements]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def changes(self, base: str) -> "pd.DataFrame":
        """Compare every other SAE with one of them, domain by domain.

        Args:
            base: Name of the SAE to compare with, such as the one that was augmented.

        Returns:
            A data frame with the columns sae, domain; ev_change, (ev − ev_base) / |ev_base|: +0.25 is a quarter
            better; and ce_increase_change, the change of what splicing in costs, ce_with − ce, relative
            to the base's: −0.5 is half the cost. NaN where the base's own value is 0.

        Raises:
            ValueError: There is no SAE of that name.
        """
        import pandas as pd

        if base not in self.saes:
            raise ValueError(
                f"This report has no SAE {base!r} to compare with. It has {', '.join(map(repr, self.saes))}. Give one of these."
            )
        rows = []
        for row in self.measurements:
            if row.sae == base:
                continue
            reference = self.at(base, row.domain)
            cost, cost_of_base = row.ce_with - row.ce, reference.ce_with - reference.ce
            rows.append(
                {
                    "sae": row.sae,
                    "domain": row.domain,
                    "ev_change": _ratio(row.ev - reference.ev, abs(reference.ev)),
                    "ce_increase_change": _ratio(cost - cost_of_base, abs(cost_of_base)),
                }
            )
        return pd.DataFrame(rows, columns=["sae", "domain", "ev_change", "ce_increase_change"])

    def plot(self) -> "go.Figure":
        """Draw explained variance, and what splicing in costs, by domain; returns the figure without showing it."""
        from sae_lens_ext.analysis.domains.figure import figure

        return figure(self)

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        rows = [
            # The score is for readers of the file alone: it follows from the others.
            {**asdict(row), "ce_score": None if math.isnan(row.ce_score) else row.ce_score}
            for row in self.measurements
        ]
        save_result(path, FORMAT, {"provenance": dict(self.provenance), "measurements": rows})

    @classmethod
    def load(cls, path: str | Path) -> "DomainReport":
        """Read a report that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole report.
        """

        def build(content: Any) -> DomainReport:
            names = [f.name for f in fields(DomainMeasurement)]
            rows = (
                DomainMeasurement(**{name: row[name] for name in names}) for row in content["measurements"]
            )
            return cls(tuple(rows), content["provenance"])

        return load_result(path, FORMAT, build, "measure again with evaluate_domains")

    def __repr__(self) -> str:
        tokens = sorted({row.n_tokens for row in self.measurements})
        counted = " to ".join(f"{n:,}" for n in dict.fromkeys((*tokens[:1], *tokens[-1:]))) or "no"
        return (
            f"DomainReport of {len(self.saes)} SAEs ({', '.join(self.saes)})\n"
            f"  on {len(self.domains)} domains ({', '.join(self.domains)}), {counted} tokens each\n"
            f"  {self.provenance.get('model_name')} at {', '.join(self.provenance.get('hook_names', []))}"
        )

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3f}")


def _ratio(numerator: float, denominator: float) -> float:
    """Divide; NaN where there is nothing to divide by."""
    return numerator / denominator if denominator else math.nan

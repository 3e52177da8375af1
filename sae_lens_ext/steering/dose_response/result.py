"""What `dose_response` found, as tables, a figure and a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.bootstrap import Estimate
from sae_lens_ext.steering.dose_response.estimates import Mode

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.DoseResponse/1"


@dataclass(frozen=True)
class Completion:
    """One generated text."""

    strength: float | None
    """The strength; None for the unsteered model."""
    prompt: int
    """Position of its prompt in `DoseResponse.prompts`."""
    sample: int
    """Which of the prompt's samples, from 0. Equal positions were sampled with equal random numbers at every strength."""
    text: str
    """The text, without the prompt and the token that ended it."""
    n_tokens: int
    """Its tokens, without the one that ended it."""
    behaviour: float
    """How much of the behaviour it shows, 0 to 1."""
    cross_entropy: float
    """Of the unsteered model on it (and on the token that ended it), given the prompt; mean, nats per token."""
    distinct_bigrams: float
    """Share of distinct ones among its pairs of neighbouring tokens, 0 to 1; 1 if there is no pair."""


@dataclass(frozen=True)
class DoseRow:
    """What one strength does. Every number is a mean over prompts, with its 95 % bootstrap interval over prompts."""

    strength: float | None
    """The strength; None for the unsteered model."""
    behaviour: Estimate
    """How much of the behaviour completions show, 0 to 1."""
    coherence: Estimate
    """exp(min(0, CE₀ − CE)) · min(1, D/D₀), 0 to 1: how likely a token is to the unsteered model, and how varied the text is, against its own
    completions."""
    distinct_bigrams: Estimate
    """D: share of distinct pairs of neighbouring tokens, 0 to 1. Repetition, which is cheap for cross-entropy, shows here."""
    score: Estimate
    """behaviour × coherence, or (1 − behaviour) × coherence in the mode "suppress"; 0 to 1."""
    cross_entropy: Estimate
    """CE: of the unsteered model on the completions, nats per token."""
    theme_log_prob: Estimate | None
    """Mean log-probability per token of the theme texts to the steered model − that to the unsteered one, nats; positive is likelier. Its interval
    is over the texts. None if there are none."""


MEASURES = tuple(f.name for f in fields(DoseRow) if f.name != "strength")


@dataclass(frozen=True, repr=False)
class DoseResponse:
    """Behaviour, coherence and score against the strength of a steering. See `dose_response`."""

    rows: tuple[DoseRow, ...]
    """One for each strength, in the order given."""
    unsteered: DoseRow
    """The model as it is; its coherence is 1."""
    completions: tuple[Completion, ...]
    """Every text: the unsteered model's, then strength by strength."""
    prompts: tuple[str, ...]
    """What was continued."""
    mode: Mode
    """"activate" or "suppress": what the score rewards."""
    theme_texts: tuple[str, ...] = ()
    """Texts whose log-probability was measured."""
    theme_log_prob: float | None = None
    """Of the theme texts to the unsteered model, mean over texts, nats per token; None if there are none."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hooks, and how completions were sampled."""

    @property
    def best(self) -> DoseRow:
        """The strength with the largest score; of equal ones the first."""
        return max(self.rows, key=lambda row: row.score.value)

    def at(self, strength: float) -> DoseRow:
        """Give the row of a strength.

        Raises:
            ValueError: It was not measured.
        """
        found = next((row for row in self.rows if row.strength == strength), None)
        if found is None:
            raise ValueError(
                f"Strength {strength} was not measured. There are {', '.join(f'{row.strength:g}' for row in self.rows)}. Give one of these."
            )
        return found

    def texts(self, strength: float | None) -> list[str]:
        """Give the completions at a strength, None for the unsteered model's, by prompt and sample.

        Raises:
            ValueError: It was not measured.
        """
        if strength is not None:
            self.at(strength)
        return [completion.text for completion in self.completions if completion.strength == strength]

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row per strength: each measure, and the ends of its interval as *_low and *_high (NaN for None)."""
        import pandas as pd

        return pd.DataFrame([_flat(row) for row in self.rows]).astype(float)

    def completions_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row per completion; `strength` is NaN for the unsteered model's, `prompt` is the text."""
        import pandas as pd

        frame = pd.DataFrame([asdict(completion) for completion in self.completions])
        frame["prompt"] = [self.prompts[completion.prompt] for completion in self.completions]
        return frame.astype({"strength": float})

    def plot(self) -> "go.Figure":
        """Draw behaviour, coherence and score against strength, with intervals; returns the figure without showing it."""
        from sae_lens_ext.steering.dose_response.figure import figure

        return figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        save_result(path, FORMAT, {**asdict(self), "provenance": dict(self.provenance)})

    @classmethod
    def load(cls, path: str | Path) -> "DoseResponse":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any) -> DoseResponse:
            tuples = {name: tuple(content[name]) for name in ("prompts", "theme_texts")}
            rows = {
                "rows": tuple(map(_row, content["rows"])),
                "unsteered": _row(content["unsteered"]),
                "completions": tuple(Completion(**one) for one in content["completions"]),
            }
            others: Any = {f.name: content[f.name] for f in fields(cls)}
            loaded: Any = {**others, **tuples, **rows}
            return cls(**loaded)

        return load_result(path, FORMAT, build, "measure again with dose_response")

    def __repr__(self) -> str:
        best = self.best
        return (
            f"DoseResponse ({self.mode}) at {len(self.rows)} strengths, {len(self.prompts)} prompts; unsteered behaviour {self.unsteered.behaviour}\n"
            f"  best at strength {best.strength:g}: behaviour {best.behaviour}, coherence {best.coherence}, score {best.score}\n"
            f"  {self.provenance.get('model_name')} at {', '.join(self.provenance.get('hook_names', ()))}"
        )

    def _repr_html_(self) -> str:
        table = self.to_frame()[["strength", *MEASURES]]
        return notebook_view(self, table.to_html(index=False, float_format=lambda x: f"{x:.3f}", na_rep=""))


def _flat(row: DoseRow) -> dict[str, float | None]:
    flat: dict[str, float | None] = {"strength": row.strength}
    for name in MEASURES:
        found: Estimate | None = getattr(row, name)
        flat[name] = None if found is None else found.value
        flat[f"{name}_low"] = None if found is None else found.low
        flat[f"{name}_high"] = None if found is None else found.high
    return flat


def _row(content: Any) -> DoseRow:
    measures = {name: content[name] and Estimate(**content[name]) for name in MEASURES}
    return DoseRow(strength=content["strength"], **measures)

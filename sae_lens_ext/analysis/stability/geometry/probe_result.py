"""What `stability_probe` found, as numbers, a table, a figure and a file."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.StabilityProbe/1"
OTHERS, OTHERS_SEEN, OWN, SHUFFLED = KINDS = ("others", "others_seen", "own", "shuffled")
MEASURES = ("f1", "precision", "recall", "accuracy", "auc", "balanced_f1", "always_unstable_f1")


@dataclass(frozen=True)
class ProbeScore:
    """The probes of one SAE on the stable and unstable latents of one SAE. "Unstable" is the positive class."""

    trained_on: int
    """Position of the SAE whose latents it was learnt from."""
    tested_on: int
    """Position of the SAE it is tried on."""
    shuffle: int | None
    """Which shuffle of the labels it was learnt from; None: the true labels."""
    held_out: bool
    """Whether each latent is scored by a probe that was learnt without the fold of its nearest latent in `trained_on`; if not, by
    the one learnt from all latents, near-copies included."""
    true_positives: int
    """Unstable latents that it calls unstable."""
    false_positives: int
    """Stable latents that it calls unstable."""
    false_negatives: int
    """Unstable latents that it calls stable."""
    true_negatives: int
    """Stable latents that it calls stable."""
    auc: float
    """Chance that it ranks a random unstable latent above a random stable one, 0 to 1; ties count half."""

    @property
    def kind(self) -> str:
        """What it says of.

        "others": another SAE, held out by feature. "others_seen": another SAE, near-copies of whose stable latents were learnt from.
        "own": the SAE it was learnt on. "shuffled": as "others", learnt from shuffled labels.
        """
        if self.shuffle is not None:
            return SHUFFLED
        if self.trained_on == self.tested_on:
            return OWN
        return OTHERS if self.held_out else OTHERS_SEEN

    @property
    def n_unstable(self) -> int:
        """Unstable latents of the SAE it is tried on."""
        return self.true_positives + self.false_negatives

    @property
    def n_stable(self) -> int:
        """Stable latents of the SAE it is tried on."""
        return self.true_negatives + self.false_positives

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN), 0 to 1."""
        return (
            2 * self.true_positives / (2 * self.true_positives + self.false_positives + self.false_negatives)
        )

    @property
    def precision(self) -> float:
        """Share of the latents called unstable that are; NaN if it calls none so."""
        called = self.true_positives + self.false_positives
        return self.true_positives / called if called else math.nan

    @property
    def recall(self) -> float:
        """Share of the unstable latents that it calls unstable."""
        return self.true_positives / self.n_unstable

    @property
    def accuracy(self) -> float:
        """Share of all latents that it calls rightly."""
        return (self.true_positives + self.true_negatives) / (self.n_unstable + self.n_stable)

    @property
    def balanced_f1(self) -> float:
        """F1 if both classes were equally common, 2 R / (1 + R + FP / n_stable) with recall R.

        Each latent is weighted by one over the size of its class: what random subsets with as many of both tend to, without drawing
        any. "Unstable" to everything gives 2/3, coin tosses give 1/2.
        """
        return 2 * self.recall / (1 + self.recall + self.false_positives / self.n_stable)

    @property
    def always_unstable_f1(self) -> float:
        """F1 of calling everything unstable, 2 π / (1 + π) with the share π of unstable latents: high where they are common."""
        return 2 * self.n_unstable / (2 * self.n_unstable + self.n_stable)


@dataclass(frozen=True, repr=False, eq=False)
class StabilityProbe:
    """Probes that tell unstable from stable latents by their decoder rows. See `stability_probe`."""

    names: tuple[str, ...]
    """Names of the S SAEs."""
    scores: tuple[ProbeScore, ...]
    """For each SAE learnt on, those on itself and, held out and not, on every other, and of shuffled labels on every other."""
    weights: torch.Tensor
    """[S, d_in], float64: of the probe learnt on all stable and unstable latents of each SAE, the weights for unit decoder rows; a latent whose logit, row · weights + bias,
    is above 0 is called unstable. Also for an SAE that has no other seeds."""
    biases: torch.Tensor
    """[S], float64."""
    notes: tuple[str, ...] = ()
    """What a reader must know of these numbers, a sentence each."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, penalty, folds, model, hook, a hash of each SAE, and what decided the classes."""

    def measure(self, name: str, kind: str = OTHERS) -> tuple[float, float]:
        """Give a measure's mean and deviation over the SAEs that probes were learnt on.

        Args:
            name: "f1", "precision", "recall", "accuracy", "auc", "balanced_f1" or "always_unstable_f1", as in `ProbeScore`.
            kind: "others" (tried on every other SAE, each latent with the fold of its nearest latent held out); "others_seen" (tried on
                every other SAE after learning from all latents: what the paper's description seems to do (our reading), and
                flattering, since stable latents of the others are near-copies of rows learnt from); "own" (on the one it was learnt
                on: nothing held out); or "shuffled" (as "others", learnt from shuffled labels).

        Returns:
            For each SAE that is learnt on, the mean over those it is tried on (and shuffles); of these mean and standard deviation.

        Raises:
            ValueError: There is no such measure or kind.
        """
        for given, known, what in ((name, MEASURES, "measure"), (kind, KINDS, "kind")):
            if given not in known:
                raise ValueError(f"There is no {what} {given!r}. Give one of {', '.join(map(repr, known))}.")
        by_anchor: list[list[float]] = [[] for _ in self.names]
        for score in self.scores:
            if score.kind == kind:
                by_anchor[score.trained_on].append(getattr(score, name))
        means = [fmean(found) for found in by_anchor]
        # stdev refuses NaN, which a precision without any prediction is.
        return fmean(means), math.nan if any(map(math.isnan, means)) else stdev(means)

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for every score.

        Returns:
            The columns trained_on and tested_on (names), kind, shuffle (None: true labels), n_unstable, n_stable, and the measures.
        """
        import pandas as pd

        rows = [
            {
                "trained_on": self.names[score.trained_on],
                "tested_on": self.names[score.tested_on],
                **{
                    name: getattr(score, name)
                    for name in ("kind", "shuffle", "n_unstable", "n_stable", *MEASURES)
                },
            }
            for score in self.scores
        ]
        return pd.DataFrame(rows)

    def summary(self) -> "pd.DataFrame":
        """Give a data frame with a row for every measure: its mean and deviation by kind, as in `measure`."""
        import pandas as pd

        rows = [
            {
                "measure": name,
                **{
                    column: value
                    for kind in KINDS
                    for column, value in zip((kind, f"{kind}_sd"), self.measure(name, kind), strict=True)
                },
            }
            for name in MEASURES
        ]
        return pd.DataFrame(rows)

    def plot(self) -> "go.Figure":
        """Draw F1, balanced F1 and AUC by kind, beside what calling everything unstable gives; returns the figure without showing it."""
        from sae_lens_ext.analysis.stability.geometry.probe_figure import figure

        return figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON with the probes as safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {
            "names": self.names,
            "notes": self.notes,
            "provenance": dict(self.provenance),
            "scores": [asdict(score) for score in self.scores],
        }
        save_result_with_tensors(path, FORMAT, content, {"weights": self.weights, "biases": self.biases})

    @classmethod
    def load(cls, path: str | Path) -> "StabilityProbe":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result, or its tensors are missing or others.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> StabilityProbe:
            return cls(
                names=tuple(content["names"]),
                scores=tuple(ProbeScore(**score) for score in content["scores"]),
                weights=tensors["weights"],
                biases=tensors["biases"],
                notes=tuple(content["notes"]),
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with stability_probe")

    def __repr__(self) -> str:
        def shown(name: str, always: str = "") -> str:
            held_out, seen, shuffled = (
                "{:.3f} ± {:.3f}".format(*self.measure(name, kind))
                for kind in (OTHERS, OTHERS_SEEN, SHUFFLED)
            )
            return f"held out {held_out} (seen {seen}, shuffled {shuffled}{always})"

        always = self.measure("always_unstable_f1")[0]
        return (
            f"StabilityProbe of {len(self.names)} SAEs ({self.names[0]}, …), learnt on each and tried on the others: unstable against stable\n"
            f"  F1 {shown('f1', f', always unstable {always:.3f}')} · balanced F1 {shown('balanced_f1', ', always 0.667')} · AUC {shown('auc')}\n"
            f"  {self.provenance.get('model_name')} at {self.provenance.get('hook_name')}"
            + "".join(f" · {note}" for note in self.notes)
        )

    def _repr_html_(self) -> str:
        table = self.summary().to_html(index=False, float_format=lambda x: f"{x:.3f}")
        return notebook_view(self, table)

"""How well a model predicts tokens, sequence by sequence, and how two models compare."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.bootstrap import Estimate, bootstrap_weights, estimate

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.LanguageModelLoss/1"
_RESAMPLES, _SEED = 2000, 0


@dataclass(frozen=True, eq=False, repr=False)
class LanguageModelLoss:
    """The cross-entropy of a model on sequences. See `language_model_loss`."""

    losses: NDArray[np.float64]
    """−Σ ln p over the predictions of each sequence that count, [n_sequences], nats."""
    counts: NDArray[np.int64]
    """How many those are, [n_sequences], at least 1 each."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, model, hash of its weights and of the tokens read."""

    @property
    def loss(self) -> float:
        """Mean over all counted predictions, nats per token."""
        return math.fsum(self.losses) / int(self.counts.sum())

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(self.loss)

    @cached_property
    def interval(self) -> Estimate:
        """The loss with its 95 % interval, from resampling sequences."""
        return _ratio(self.losses, self.counts)

    def perplexity_estimate(self) -> Estimate:
        """Give the perplexity with its 95 % interval, from resampling sequences."""
        found = self.interval
        ends = [None if end is None else math.exp(end) for end in (found.low, found.high)]
        return Estimate(math.exp(found.value), *ends)

    def minus(self, other: "LanguageModelLoss") -> Estimate:
        """Compare with another model on the same tokens.

        Args:
            other: The other's losses.

        Returns:
            This mean loss less the other's, nats per token, negative where this model predicts better; the interval from resampling sequences, the same ones
            of both.

        Raises:
            ValueError: The other was measured on other tokens, or other predictions count.
        """
        mine, theirs = (one.provenance.get("tokens_sha256") for one in (self, other))
        if mine != theirs or not np.array_equal(self.counts, other.counts):
            raise ValueError(
                f"The losses to be compared are of different tokens: {len(self.counts)} sequences with {self.counts.sum()} predictions (hash {mine}), and "
                f"{len(other.counts)} with {other.counts.sum()} (hash {theirs}). Measure both models on the same tokens with the same loss mask."
            )
        return _ratio(self.losses - other.losses, self.counts)

    def to_frame(self) -> "pd.DataFrame":
        """Give the sequences as a table: summed loss, predictions, and their ratio."""
        import pandas as pd

        return pd.DataFrame(
            {"loss": self.losses, "predictions": self.counts, "loss_per_token": self.losses / self.counts}
        )

    def plot(self) -> "go.Figure":
        """Draw how the mean loss is spread over the sequences; the figure is not shown."""
        from sae_lens_ext.lime.training.figure import spread

        return spread(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON.

        Args:
            path: The file; its folder must exist.
        """
        save_result(
            path,
            FORMAT,
            {
                "losses": self.losses.tolist(),
                "counts": self.counts.tolist(),
                "provenance": dict(self.provenance),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "LanguageModelLoss":
        """Read what `save` wrote.

        Raises:
            ValueError: The file is something else or truncated.
        """
        return load_result(
            path,
            FORMAT,
            lambda content: cls(
                np.array(content["losses"], dtype=np.float64),
                np.array(content["counts"], dtype=np.int64),
                content["provenance"],
            ),
            "measure it again with language_model_loss",
        )

    def __repr__(self) -> str:
        return (
            f"LanguageModelLoss of {len(self.counts)} sequences, {self.counts.sum()} predictions\n"
            f"  loss {self.interval} nats per token\n"
            f"  perplexity {self.perplexity_estimate()}"
        )

    def _repr_html_(self) -> str:
        table: Any = self.to_frame().describe().loc[["mean", "std", "min", "50%", "max"]]
        return notebook_view(self, table.to_html(float_format=lambda x: f"{x:.3f}"))


def _ratio(losses: NDArray[np.float64], counts: NDArray[np.int64]) -> Estimate:
    """Estimate Σ losses / Σ counts by resampling both together."""
    weights = bootstrap_weights(len(counts), _RESAMPLES, _SEED)
    return estimate((weights @ losses) / (weights @ counts), len(counts))

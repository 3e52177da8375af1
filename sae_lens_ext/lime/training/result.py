"""How a training of a language model went, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.architectures.validation import require_positive_int

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.LanguageModelTraining/1"
RESULT_FILE = "training.json"
_OF_STEPS = {
    "losses": np.float64,
    "learning_rates": np.float64,
    "gradient_norms": np.float64,
    "tokens": np.int64,
    "seconds": np.float64,
}
_OF_VALIDATIONS = {"validation_steps": np.int64, "validation_losses": np.float64}
_FEW = 20
"""Steps that are averaged for the eye."""


@dataclass(frozen=True, eq=False, repr=False)
class LanguageModelTraining:
    """The record of a training. See `train_language_model`."""

    losses: NDArray[np.float64]
    """Mean cross-entropy of each step's batch before the update, [n_steps], nats per counted prediction."""
    learning_rates: NDArray[np.float64]
    """Learning rate of each step, [n_steps]: the model's; the routers', if these alone were trained."""
    gradient_norms: NDArray[np.float64]
    """Norm of the gradient over all that is trained, before clipping, [n_steps]."""
    tokens: NDArray[np.int64]
    """Tokens read up to and with each step, counted or not, [n_steps]."""
    seconds: NDArray[np.float64]
    """Wall-clock seconds of each step, [n_steps], without validation and saving."""
    validation_steps: NDArray[np.int64]
    """Steps after which the validation loss was measured, [n_validations], counted from 1."""
    validation_losses: NDArray[np.float64]
    """Mean cross-entropy over the counted predictions held out, [n_validations], nats."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings, hashes of tokens and of the weights before and after, versions."""

    @property
    def validation_loss(self) -> float | None:
        """The last validation loss, nats per counted prediction; None if there was no validation."""
        return float(self.validation_losses[-1]) if len(self.validation_losses) else None

    @property
    def tokens_per_second(self) -> float:
        """Tokens read in a second of training, by the median step."""
        return float(np.median(np.diff(self.tokens, prepend=0) / self.seconds))

    def smoothed(self, window: int = _FEW) -> NDArray[np.float64]:
        """Give the mean loss of each step and the `window` − 1 before it, of fewer at the beginning, [n_steps].

        Raises:
            ValueError: `window` is not a whole number of at least 1.
        """
        require_positive_int("LanguageModelTraining.smoothed", "window", window)
        total = np.concatenate([[0.0], np.cumsum(self.losses)])
        ends = np.arange(1, len(self.losses) + 1)
        starts = np.maximum(0, ends - window)
        return (total[ends] - total[starts]) / (ends - starts)

    def to_frame(self) -> "pd.DataFrame":
        """Give the steps as a table, one row each; validation_loss is NaN where there was none."""
        import pandas as pd

        frame = pd.DataFrame(
            {"step": np.arange(1, len(self.losses) + 1), **{name: getattr(self, name) for name in _OF_STEPS}}
        )
        validation = np.full(len(self.losses), np.nan)
        validation[self.validation_steps - 1] = self.validation_losses
        frame["validation_loss"] = validation
        return frame.rename(
            columns={"losses": "loss", "learning_rates": "lr", "gradient_norms": "gradient_norm"}
        )

    def plot(self, *, window: int = _FEW) -> "go.Figure":
        """Draw the loss over the tokens read: thin each step, thick the running mean, dots the validations.

        Args:
            window: Steps of the running mean.

        Returns:
            The figure, not shown.
        """
        from sae_lens_ext.lime.training.figure import loss_curve

        return loss_curve(self, window)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON.

        Args:
            path: The file; its folder must exist.
        """
        numbers = {name: getattr(self, name).tolist() for name in (*_OF_STEPS, *_OF_VALIDATIONS)}
        save_result(path, FORMAT, numbers | {"provenance": dict(self.provenance)})

    @classmethod
    def load(cls, path: str | Path) -> "LanguageModelTraining":
        """Read what `save` wrote.

        Raises:
            ValueError: The file is something else or truncated.
        """
        return load_result(path, FORMAT, cls._of, "train again with train_language_model")

    @classmethod
    def _of(cls, content: Any) -> "LanguageModelTraining":
        kinds = _OF_STEPS | _OF_VALIDATIONS
        arrays: dict[str, Any] = {name: np.array(content[name], dtype=kind) for name, kind in kinds.items()}
        return cls(**arrays, provenance=content["provenance"])

    def __repr__(self) -> str:
        few = min(_FEW, len(self.losses))
        ends = f"{self.losses[:few].mean():.3f} in the first {few} steps, {self.losses[-few:].mean():.3f} in the last"
        validation = self.validation_loss
        return (
            f"LanguageModelTraining of {len(self.losses)} steps, {self.tokens[-1]} tokens ({self.tokens_per_second:.0f} a second)\n"
            f"  loss {ends}, nats per prediction\n"
            f"  validation loss {'not measured' if validation is None else f'{validation:.3f}'}"
        )

    def _repr_html_(self) -> str:
        table: Any = self.to_frame().tail(_FEW // 2)
        return notebook_view(self, table.to_html(index=False, float_format=lambda x: f"{x:.4g}", na_rep=""))

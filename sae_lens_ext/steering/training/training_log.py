"""The log of a training of steering vectors, read back: step by step, as a table and as pictures."""

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.json_file import parse_json
from sae_lens_ext.run_log import LOG_FILE

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_BY_LAYER = ("learning_rate", "vector_norm")
"""Fields with a number for each layer; all others but the step have one number, or null where it was not measured."""
_FEW = 10
"""Steps that the summary averages at either end."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class TrainingLog:
    """What `train_steering_vectors` noted of each step in its folder's `log.jsonl`.

    The fields of a step, each a mean over its samples unless it says otherwise:

    - `step`: which, from 1; `seconds` it took.
    - `reward`: what the reward said; `reward_std`, its standard deviation; `trained_reward`: what was trained on, another number under a control.
    - `degenerate_groups`: share of the prompts whose samples all had one reward, 0 to 1: these teach nothing.
    - `kl_to_base`: KL(steered ‖ unsteered) of the next token, mean over the tokens written, nats; null in steps where it was not measured.
    - `entropy`: of the next token, mean over the tokens written, nats. `length`: tokens, the one that ends a completion included.
    - `ended`: share of the completions that ended by themselves, 0 to 1.
    - `log_prob_drift`: largest difference between a token's log-probability when sampled and when scored, nats; rounding alone, some 1e-4.
    - `gradient_norm`: over all vectors, before clipping. `learning_rate`, `vector_norm`: by layer, the norm after the step.
    """

    rows: tuple[Mapping[str, Any], ...]
    """One for each step, in their order: the fields by name."""
    path: Path | None = None
    """Where it was read."""

    @classmethod
    def load(cls, path: str | Path) -> "TrainingLog":
        """Read a log, also one that is being written.

        A last line that was cut off, as a crash leaves it, is dropped with a warning.

        Args:
            path: The file, or the folder of the training that holds it as `log.jsonl`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: A line is broken, or there is no step in it; it says which line.
        """
        path = Path(path)
        if path.is_dir():
            path = path / LOG_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no training log at {path}. Give the folder that train_steering_vectors was given, or the log.jsonl in it."
            )
        *lines, last = path.read_bytes().split(b"\n")  # last is empty, unless a crash has cut it off
        rows = [_row(path, number, line) for number, line in enumerate(lines, start=1)]
        if last:
            try:
                rows.append(_row(path, len(lines) + 1, last))
            except ValueError:
                _logger.warning(
                    "The last line of %s, line %d, was cut off and is left out: the training was interrupted while it wrote it, or is writing it now.",
                    path,
                    len(lines) + 1,
                )
        for number, (row, after) in enumerate(pairwise(rows), start=2):
            if after["step"] <= row["step"]:
                raise _broken(path, number, f"step {after['step']} comes after step {row['step']}")
        if not rows:
            raise ValueError(f"{path} holds no step yet. Wait for the first one, or give another log.")
        return cls(tuple(rows), path)

    @classmethod
    def read(cls, path: str | Path) -> "TrainingLog":
        """Do as `load`, by the old name."""
        warnings.warn(
            "TrainingLog.read is called TrainingLog.load now, as every other result. Write TrainingLog.load, which does the same.",
            DeprecationWarning,
            stacklevel=2,
        )
        return cls.load(path)

    @property
    def steps(self) -> NDArray[np.int64]:
        """The steps, [n]."""
        return np.array([row["step"] for row in self.rows])

    def values(self, name: str) -> NDArray[np.float64]:
        """Give a field that is one number a step, [n]; NaN where it was not measured.

        Raises:
            ValueError: There is no such field, or it is by layer.
        """
        single = {key for row in self.rows for key in row if key not in _BY_LAYER}
        if name not in single:
            raise ValueError(
                f"The log has no field {name!r} of one number a step. It has {', '.join(sorted(single))}; to_frame() has those by layer."
            )
        found = [row.get(name) for row in self.rows]
        return np.array([np.nan if value is None else value for value in found], dtype=np.float64)

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row per step; a field by layer is a column for each, such as `vector_norm_3`. NaN where nothing was measured."""
        import pandas as pd

        return pd.DataFrame([_flat(row) for row in self.rows]).astype(float).astype({"step": int})

    def plot(self, *, window: int = 10) -> "go.Figure":
        """Draw reward, KL to the base, entropy and length over the steps, those that were measured; returns the figure without showing it.

        Args:
            window: Steps of the reward's running mean: of each step and those before it.
        """
        from sae_lens_ext.steering.training.training_log_figure import figure

        require_positive_int("TrainingLog.plot", "window", window)
        return figure(self, window)

    def __repr__(self) -> str:
        few = min(_FEW, len(self.rows))
        reward = self.values("reward")
        ends = f"{reward[:few].mean():.3f} in the first {few}, {reward[-few:].mean():.3f} in the last {few}"
        last = self.rows[-1]
        others = {
            "entropy": "nats a token",
            "length": "tokens",
            "ended": "ended by themselves",
            "degenerate_groups": "of the prompts taught nothing",
        }
        shown = [f"{last[name]:.3g} {what}" for name, what in others.items() if last.get(name) is not None]
        return (
            f"TrainingLog of {len(self.rows)} steps ({self.path})\n"
            f"  reward {ends}; largest {reward.max():.3f} at step {self.steps[reward.argmax()]}\n"
            f"  step {last['step']}: {', '.join(shown) or 'nothing else was noted'}"
        )

    def _repr_html_(self) -> str:
        table: Any = self.to_frame().tail(_FEW)
        table = table[[name for name in table.columns if not name.startswith(_BY_LAYER)]]
        return notebook_view(self, table.to_html(index=False, float_format=lambda x: f"{x:.3f}", na_rep=""))


def plot_training_logs(logs: Mapping[str, TrainingLog], *, window: int = 10) -> "go.Figure":
    """Draw the rewards of several trainings over their steps: thin what each step had, thick the running mean.

    Args:
        logs: By name, such as {"true reward": a, "random reward": b}.
        window: Steps of the running mean: of each step and those before it.

    Returns:
        The figure, not shown.

    Raises:
        ValueError: There are no logs by name, or one is none.
    """
    require_positive_int("plot_training_logs", "window", window)
    if not isinstance(logs, Mapping) or not logs:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"plot_training_logs was given {type(logs).__name__} without entries by name. Give a mapping such as "
            '{"true reward": a, "random reward": b}.'
        )
    for name, log in logs.items():
        if not isinstance(log, TrainingLog):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"plot_training_logs was given {type(log).__name__} as {name!r}. Give what TrainingLog.load returns."
            )
    from sae_lens_ext.steering.training.training_log_figure import compared

    return compared(logs, window)


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise _broken(path, number, f"it is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise _broken(path, number, f"it is {type(row).__name__} and not a JSON object")
    if isinstance(row.get("step"), bool) or not isinstance(row.get("step"), int) or row["step"] < 1:
        raise _broken(path, number, f"its step is {row.get('step')!r} and not a whole number from 1 on")
    if row.get("reward") is None:
        raise _broken(path, number, "it has no reward")
    for name, value in row.items():
        numbers = list(value.values()) if name in _BY_LAYER and isinstance(value, dict) else [value]
        if not all(one is None or _is_finite(one) for one in numbers):
            raise _broken(path, number, f"its {name} is {value!r:.60}, where there should be a finite number")
    return row


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _broken(path: Path, number: int, what: str) -> ValueError:
    return ValueError(
        f"Line {number} of {path} is not a step of a training: {what}. Give a log.jsonl that train_steering_vectors wrote, as it was written."
    )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        of_layers = value if isinstance(value, Mapping) else {None: value}
        flat |= {name if layer is None else f"{name}_{layer}": one for layer, one in of_layers.items()}
    return flat

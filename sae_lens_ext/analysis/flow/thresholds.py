"""From which score on a match counts: the paper's numbers, or what chance does not reach."""

from dataclasses import asdict, dataclass
from typing import Literal

import torch

from sae_lens_ext.analysis.flow.sites import KINDS, Kind

NULL_QUANTILE = 0.99


@dataclass(frozen=True)
class FlowThresholds:
    """A match counts if it passes both: its cosine reaches the kind's threshold, and its null quantile reaches `null_quantile`."""

    residual: float = 0.0
    """Least cosine with a residual predecessor."""
    mlp: float = 0.0
    """Least cosine with a feature of the MLP's output."""
    attention: float = 0.0
    """Least cosine with a feature of the attention's output."""
    null_quantile: float = 0.0
    """Least share of made-up features whose best cosine is smaller, 0 to 1."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"FlowThresholds was given {name} = {value!r}. Give a number from 0 to 1.")

    def passed(self, kind: Kind, scores: torch.Tensor, null_quantiles: torch.Tensor) -> torch.Tensor:
        """Say which matches count, bool; NaN is no match."""
        return (scores >= getattr(self, kind)) & (null_quantiles >= self.null_quantile)

    def to_dict(self) -> dict[str, float]:
        """Give the four numbers by name."""
        return asdict(self)


PAPER = FlowThresholds(residual=0.5, mlp=0.15, attention=0.15)
"""What the paper steers with (2502.03032). They are for 16k features in 2,304 dimensions."""
NULL = FlowThresholds(null_quantile=NULL_QUANTILE)
"""One made-up feature in a hundred passes. The default, as it is the same claim for any width and any number of features."""
NONE = FlowThresholds()
"""Every match with a positive cosine counts."""

ThresholdsLike = FlowThresholds | Literal["null", "paper"] | None


def thresholds_of(caller: str, thresholds: ThresholdsLike) -> FlowThresholds:
    """Give the thresholds that a name stands for.

    Raises:
        ValueError: The name is unknown.
    """
    if isinstance(thresholds, FlowThresholds):
        return thresholds
    known = {"null": NULL, "paper": PAPER, None: NONE}
    if not isinstance(thresholds, (str, type(None))) or thresholds not in known:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f'{caller} was given thresholds = {thresholds!r}. Give "null", "paper", None for no thresholds, or FlowThresholds('
            f"{', '.join(f'{kind}=…' for kind in KINDS)}, null_quantile=…)."
        )
    return known[thresholds]

"""A ratio of two differences of mean rewards, with its interval: what pair gain and transfer have in common."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.bootstrap import Estimate, estimate
from sae_lens_ext.steering.reading.gains.rewards import MeanRewards

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MOST_UNDEFINED = 0.025
"""Share of bootstrap samples without a ratio above which no interval is given."""
LEAST_DENOMINATOR = 1e-9
"""Below it a difference of means is rounding."""

R = TypeVar("R", bound="RewardRatio")


@dataclass(frozen=True, repr=False)
class RewardRatio:
    """A ratio of differences of mean rewards."""

    value: float
    """The ratio."""
    low: float | None
    """Lower end of its 95 % interval, by a bootstrap over prompts, the same ones resampled for all rewards. None if numbers were given, or one prompt,
    or if `undefined` is above 0.025."""
    high: float | None
    """Upper end, or None."""
    parts: Mapping[str, Estimate]
    """The mean rewards it is made of, by name, with their own intervals."""
    n_prompts: int | None
    """Prompts they were measured on; None if numbers were given."""
    undefined: float
    """Share of the bootstrap samples in which the denominator is not above 0, so that there is no ratio; they are left out of the interval."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, bootstrap samples."""

    FORMULA: ClassVar[str]
    """What is computed."""
    MEANING: ClassVar[str]
    """What 0 and 1 are."""
    MAKER: ClassVar[str]
    """The function that makes it."""

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with the rows of the parts and of the ratio: name, value, low, high (NaN for None)."""
        import pandas as pd

        whole = Estimate(self.value, self.low, self.high)
        rows = [{"name": name, **asdict(one)} for name, one in {**self.parts, self.MAKER: whole}.items()]
        return pd.DataFrame(rows).astype({"value": float, "low": float, "high": float})

    def plot(self) -> "go.Figure":
        """Draw the mean rewards with their intervals; returns the figure without showing it."""
        from sae_lens_ext.steering.reading.gains.figure import ratio_figure

        return ratio_figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        save_result(path, self._format(), {**asdict(self), "provenance": dict(self.provenance)})

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any) -> R:
            plain = {
                name: content[name]
                for name in ("value", "low", "high", "n_prompts", "undefined", "provenance")
            }
            parts = {name: Estimate(**one) for name, one in content["parts"].items()}
            return cls(parts=parts, **plain)

        return load_result(path, cls._format(), build, f"compute it again with {cls.MAKER}")

    def __repr__(self) -> str:
        over = (
            "of numbers, without an interval" if self.n_prompts is None else f"over {self.n_prompts} prompts"
        )
        missing = f"; no interval, as {self.undefined:.0%} of the samples have no ratio" * (
            self.undefined > MOST_UNDEFINED
        )
        return (
            f"{type(self).__name__} {Estimate(self.value, self.low, self.high)} {over}{missing}\n"
            f"  {self.FORMULA}: {self.MEANING}\n"
            f"  {', '.join(f'{name} {one}' for name, one in self.parts.items())}"
        )

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3f}", na_rep="")
        return notebook_view(self, table)

    @classmethod
    def _format(cls) -> str:
        return f"sae_lens_ext.{cls.__name__}/1"


def ratio_provenance(n_resamples: int, seed: int) -> dict[str, Any]:
    """Give the provenance of a ratio."""
    return {**versions(), "n_resamples": n_resamples, "seed": seed}


def ratio_fields(
    rewards: MeanRewards, above: NDArray[np.float64], below: NDArray[np.float64]
) -> dict[str, Any]:
    """Give the fields of a `RewardRatio` but its provenance; `value` is None if there is no ratio.

    Args:
        rewards: The mean rewards.
        above: The numerator, [1 + n_resamples] as they are.
        below: The denominator; a ratio is defined where it is above 0.
    """
    defined = below > LEAST_DENOMINATOR
    undefined = float(1 - defined[1:].mean()) if len(defined) > 1 else 0.0
    n = rewards.n_prompts if rewards.n_prompts is not None and undefined <= MOST_UNDEFINED else 1
    whole = estimate(above[defined] / below[defined], n) if defined[0] else Estimate(float("nan"), None, None)
    return {
        "value": whole.value if defined[0] else None,
        "low": whole.low,
        "high": whole.high,
        "parts": rewards.estimates(),
        "n_prompts": rewards.n_prompts,
        "undefined": undefined,
    }

"""What `measure_firing_rates` found, as a table, a figure and a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.FiringRates/1"


@dataclass(frozen=True, repr=False, eq=False)
class FiringRates:
    """How often the latents of some SAEs fire on a text. See `measure_firing_rates`."""

    names: tuple[str, ...]
    """Names of the SAEs."""
    rates: tuple[torch.Tensor, ...]
    """By SAE, [d_sae], 0 to 1: share of the tokens on which a latent's activation is not 0."""
    n_tokens: int
    """Tokens they were counted on; special tokens do not count."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hook, a hash of the tokens, and one of each SAE."""

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row per latent: sae, latent, firing_rate."""
        import pandas as pd

        return pd.concat(
            [
                pd.DataFrame({"sae": name, "latent": range(len(rates)), "firing_rate": rates.numpy()})
                for name, rates in zip(self.names, self.rates, strict=True)
            ],
            ignore_index=True,
        )

    def plot(self) -> "go.Figure":
        """Draw for each SAE how many latents fire how often; those that never fired are counted in its name. Returns the figure without showing it."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for name, rates in zip(self.names, self.rates, strict=True):
            fired = rates[rates > 0]
            figure.add_histogram(
                x=fired.log10().tolist(),
                name=f"{escape(name, quote=False)}, {len(rates) - len(fired)} silent",
                xbins={"size": 0.25},
                opacity=0.6,
            )
        figure.update_layout(
            template="plotly_white",
            barmode="overlay",
            xaxis_title="share of the tokens on which a latent fires, log10",
            yaxis_title="latents",
        )
        return figure

    def save(self, path: str | Path) -> None:
        """Write the rates as JSON with their tensors as safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {"names": self.names, "n_tokens": self.n_tokens, "provenance": dict(self.provenance)}
        tensors = {f"rates.{i}": rates for i, rates in enumerate(self.rates)}
        save_result_with_tensors(path, FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "FiringRates":
        """Read rates that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result, or its tensors are missing or others.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> FiringRates:
            names = tuple(content["names"])
            return cls(
                names=names,
                rates=tuple(tensors[f"rates.{i}"] for i in range(len(names))),
                n_tokens=content["n_tokens"],
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with measure_firing_rates")

    def __repr__(self) -> str:
        silent = ", ".join(str(int((rates == 0).sum())) for rates in self.rates)
        return (
            f"FiringRates of {len(self.names)} SAEs ({', '.join(self.names)})\n"
            f"  on {self.n_tokens:,} tokens; latents that never fired: {silent}\n"
            f"  {self.provenance.get('model_name')} at {self.provenance.get('hook_name')}"
        )

    def _repr_html_(self) -> str:
        table = self.to_frame().groupby("sae", sort=False)["firing_rate"].describe().drop(columns="count")
        return notebook_view(self, table.to_html(float_format=lambda x: f"{x:.2g}"))

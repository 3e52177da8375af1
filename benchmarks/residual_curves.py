"""What a residual SAE's gain in its domain, and its harm elsewhere, depend on: tokens, k, general text, threshold.

Explained variance on held-out activations of the domain and of general text, base and residual together, relative to the
base alone.

    python benchmarks/residual_curves.py        writes residual_curves.json and residual_curves.svg; half an hour
"""

import json

import plotly.graph_objects as go
import torch
from domain_saes import (
    BATCH,
    CACHE,
    D_NEW,
    GENERAL,
    K_NEW,
    base_sae,
    cached_activations,
    explained_variance,
    fit,
    mixture,
    residual_sae,
)
from plotly.colors import qualitative
from plotly.subplots import make_subplots
from result import write_figure, write_result
from sae_lens import SAE
from sae_lens.util import temporary_seed

from sae_lens_ext import ResidualStackSAE
from sae_lens_ext.architectures.inference import as_inference

DOMAINS = {"python": "python_source", "french": "encyclopedia_fr"}
LR = 2e-3
HIGH_LEARNING_RATE = 6e-3
TOKENS = {"python": (30_000, 100_000, 300_000, 1_000_000), "french": (30_000, 100_000, 300_000)}
FRACTIONS = (0.0, 0.05, 0.1, 0.25)
KS = (5, 20, 50)
THRESHOLDS = (0.5, 0.75, 1.25, 1.5, 2.0)
SHORT, DEFAULT_FRACTION = 300_000, 0.1


class Lab:
    """The base, one domain's activations, and what has been measured so far."""

    def __init__(self, domain: str) -> None:
        self.base = base_sae()
        self.training, self.held_out = cached_activations(DOMAINS[domain])
        self.general, self.general_held_out = cached_activations(GENERAL)
        self.base_domain, _ = explained_variance(self.base, self.held_out)
        self.base_general, _ = explained_variance(self.base, self.general_held_out)
        self.path = CACHE / f"curves_{domain}.json"
        self.rows = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def residual(self, tokens: int, fraction: float, k: float, lr: float) -> SAE:
        """Train a residual SAE."""
        with temporary_seed(1):  # not the base's, with which it would start from the base's own first rows
            sae = residual_sae(self.base, k)
            sae.cfg.topk_threshold_lr = min(
                0.1, max(0.01, 20 * BATCH / tokens)
            )  # as `sae-lens-ext augment` does
            fit(sae, mixture(self.training, self.general, fraction), tokens, lr=lr)
        return as_inference(sae)

    @torch.no_grad()
    def measured(self, residual: SAE) -> dict[str, float]:
        """Measure base and residual together."""
        stack = ResidualStackSAE.from_saes(self.base, {"domain": residual})
        domain, _ = explained_variance(stack, self.held_out)
        general, _ = explained_variance(stack, self.general_held_out)
        return {
            "domain": domain,
            "general": general,
            "domain_change": domain / self.base_domain - 1,
            "general_change": general / self.base_general - 1,
            "l0_domain": _l0(residual, self.held_out),
            "l0_general": _l0(residual, self.general_held_out),
        }

    def run(
        self, *, tokens: int = SHORT, fraction: float = DEFAULT_FRACTION, k: float = K_NEW, lr: float = LR
    ) -> None:
        """Train and measure, unless an earlier run has."""
        key = f"{tokens} tokens, {fraction:.0%} general, k = {k:g}" + (f", lr {lr:g}" if lr != LR else "")
        if key not in self.rows:
            setting = {"tokens": tokens, "fraction": fraction, "k": k, "lr": lr, "threshold": 1.0}
            self.keep(key, {**setting, **self.measured(self.residual(tokens, fraction, k, lr))})

    def keep(self, key: str, row: dict[str, float]) -> None:
        """Note a row, on disk as well."""
        self.rows[key] = row
        self.path.write_text(json.dumps(self.rows))
        print(
            f"{key}: domain {row['domain_change']:+.1%}, general {row['general_change']:+.2%}, "
            f"new latents a token {row['l0_domain']:.1f} and {row['l0_general']:.2f}",
            flush=True,
        )

    def thresholds(self, fraction: float) -> None:
        """Raise and lower one residual's thresholds after training."""
        keys = {scale: f"threshold x {scale:g}, {fraction:.0%} general" for scale in THRESHOLDS}
        if all(key in self.rows for key in keys.values()):
            return
        residual = self.residual(SHORT, fraction, K_NEW, LR)
        trained = residual.threshold.data.clone()
        for scale, key in keys.items():
            residual.threshold.data = trained * scale
            setting = {"tokens": SHORT, "fraction": fraction, "k": K_NEW, "lr": LR, "threshold": scale}
            self.keep(key, {**setting, **self.measured(residual)})


@torch.no_grad()
def _l0(sae: SAE, x: torch.Tensor) -> float:
    return sum(int((sae.encode(part) != 0).sum()) for part in x.split(1024)) / len(x)


def main() -> None:
    """Train, measure, draw, write."""
    labs = {domain: Lab(domain) for domain in DOMAINS}
    for domain, lab in labs.items():
        for tokens in TOKENS[domain]:
            for fraction in (0.0, DEFAULT_FRACTION):
                lab.run(tokens=tokens, fraction=fraction)
    for lab in labs.values():
        lab.run(lr=HIGH_LEARNING_RATE)
    for fraction in FRACTIONS:
        labs["python"].run(fraction=fraction)
    for k in KS:
        for fraction in (0.0, DEFAULT_FRACTION):
            labs["python"].run(k=k, fraction=fraction)
    for fraction in (0.0, DEFAULT_FRACTION):
        labs["python"].thresholds(fraction)
    write_result(
        __file__,
        {
            "lr": LR,
            "new_latents": D_NEW,
            "base": {
                domain: {"domain": lab.base_domain, "general": lab.base_general}
                for domain, lab in labs.items()
            },
            "rows": {domain: lab.rows for domain, lab in labs.items()},
        },
    )
    write_figure(__file__, figure(labs), height=760)


def figure(labs: dict[str, Lab]) -> go.Figure:
    """Draw gain (above) and harm (below) against tokens for both domains, general text and k for Python."""
    columns = ["tokens", "share of general text", "k", "threshold, times the trained one"]
    drawing = make_subplots(rows=2, cols=4, shared_xaxes=True, horizontal_spacing=0.05, vertical_spacing=0.06)
    lines = {
        (domain, fraction): qualitative.Safe[2 * i + (fraction > 0)]
        for i, domain in enumerate(labs)
        for fraction in (0.0, DEFAULT_FRACTION)
    }

    def line(domain: str, shown: float, column: int, name: str, **wanted: float) -> None:
        rows = [
            row
            for row in labs[domain].rows.values()
            if all(row[key] == value for key, value in {"lr": LR, **wanted}.items())
        ]
        rows.sort(key=lambda row: row[name])
        for i, key in enumerate(("domain_change", "general_change"), start=1):
            drawing.add_scatter(
                x=[row[name] for row in rows],
                y=[100 * row[key] for row in rows],
                mode="lines+markers",
                name=f"{domain}, {'domain only' if shown == 0 else '10 % general text'}",
                legendgroup=f"{domain}{shown}",
                showlegend=i == 1 and column == 1,
                line={
                    "color": lines[domain, shown],
                    "dash": "dot" if shown == 0 else "solid",
                },
                row=i,
                col=column,
            )

    for domain, fraction in lines:
        line(domain, fraction, 1, "tokens", fraction=fraction, k=K_NEW, threshold=1.0)
    line("python", DEFAULT_FRACTION, 2, "fraction", tokens=SHORT, k=K_NEW, threshold=1.0)
    for fraction in (0.0, DEFAULT_FRACTION):
        line("python", fraction, 3, "k", fraction=fraction, tokens=SHORT, threshold=1.0)
        line("python", fraction, 4, "threshold", fraction=fraction, tokens=SHORT, k=K_NEW)
    for column, title in enumerate(columns, start=1):
        drawing.update_xaxes(title=title, row=2, col=column)
        drawing.add_hline(y=0, line={"color": "#999", "width": 1}, row=2, col=column)
    for column in (1, 3):
        drawing.update_xaxes(type="log", col=column)
    drawing.update_yaxes(title="domain: change of EV, %", row=1, col=1)
    drawing.update_yaxes(title="general text: change of EV, %", row=2, col=1)
    drawing.update_layout(
        title="What the gain and the harm of a residual SAE depend on",
        legend={"orientation": "h", "y": -0.14},
    )
    return drawing


if __name__ == "__main__":
    main()

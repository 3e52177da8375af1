"""The figures of the LIMe benchmarks."""

from typing import Any

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from sae_lens_ext.lime import LanguageModelLoss, LanguageModelTraining


def compared_losses(losses: dict[str, dict[int, LanguageModelLoss]], base: str) -> go.Figure:
    """Draw held-out perplexity by variant, and the paired differences of loss to the variant `base`, a point for each seed."""
    drawn = make_subplots(cols=2, subplot_titles=("Perplexity", f"Loss less that of {base}, nats a token"))
    against = [variant for variant in losses if variant != base]
    seeds = list(losses[base])
    for place, (seed, colour) in enumerate(zip(seeds, qualitative.Plotly, strict=False)):
        panels = [
            [of_seeds[seed].perplexity_estimate() for of_seeds in losses.values()],
            [losses[variant][seed].minus(losses[base][seed]) for variant in against],
        ]
        for column, estimates in enumerate(panels, start=1):
            drawn.add_scatter(
                x=[i + 0.12 * (place - (len(seeds) - 1) / 2) for i in range(len(estimates))],
                y=[e.value for e in estimates],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [(e.high or e.value) - e.value for e in estimates],
                    "arrayminus": [e.value - (e.low or e.value) for e in estimates],
                },
                mode="markers",
                marker={"size": 9, "color": colour},
                name=f"seed {seed}",
                showlegend=column == 1,
                row=1,
                col=column,
            )
    for column, names in enumerate((list(losses), against), start=1):
        drawn.update_xaxes(
            tickvals=list(range(len(names))), ticktext=names, zeroline=False, showgrid=False, col=column
        )
    drawn.update_yaxes(zeroline=True, zerolinecolor="grey", col=2)
    drawn.update_layout(title="Held-out documents, equal tokens, 95 % intervals over sequences")
    return drawn


def training_curves(logs: dict[str, dict[int, LanguageModelTraining]]) -> go.Figure:
    """Draw the validation losses over the steps, a line for each training."""
    drawn = go.Figure()
    for colour, (variant, of_seeds) in zip(qualitative.Plotly, logs.items(), strict=False):
        for seed, log in of_seeds.items():
            frame = log.to_frame().dropna(subset="validation_loss")
            drawn.add_scatter(
                x=frame["step"],
                y=frame["validation_loss"],
                line={"color": colour, "width": 1.5},
                legendgroup=variant,
                name=variant,
                showlegend=seed == next(iter(of_seeds)),
            )
    drawn.update_layout(
        title="Loss on validation documents while training, a line for each seed",
        xaxis_title="step",
        yaxis_title="nats a token",
        yaxis_type="log",
    )
    return drawn


def changes_of_loss(changes: dict[str, dict[str, Any]]) -> go.Figure:
    """Draw the change of loss by text, for all that was trained side by side; `changes` is by text and by what was trained."""
    drawn = go.Figure()
    for name in next(iter(changes.values())):
        of = [by_set[name]["change_of_loss"] for by_set in changes.values()]
        drawn.add_bar(
            x=list(changes),
            y=[e["value"] for e in of],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [(e["high"] or e["value"]) - e["value"] for e in of],
                "arrayminus": [e["value"] - (e["low"] or e["value"]) for e in of],
            },
            name=name,
        )
    drawn.update_layout(
        title="Change of held-out loss after training on the first text, 95 % intervals over sequences",
        yaxis_title="nats a token",
        barmode="group",
    )
    return drawn

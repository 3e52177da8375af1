"""How the cost of a training step grows with the dictionary, the budget and the batch.

python benchmarks/scaling.py         writes scaling.json and scaling.svg; half an hour on two cores
"""

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from interleaved import interleaved
from plotly.subplots import make_subplots
from result import write_figure, write_result
from saes import HIERARCHICAL, KRON, PLAIN, POWERS, TOPK, make, trainer

D_IN = 576
BASE = {"batch": 2048, "d_sae": 2**14, "k": 64}
SWEEPS = {
    "d_sae": [2**i for i in range(11, 18)],
    "k": [16, 32, 64, 128, 256],
    "batch": [512, 1024, 2048, 4096, 8192],
}
NAMES = (TOPK, KRON, HIERARCHICAL, POWERS, PLAIN)
UPDATE = f"{KRON}: optimiser and clip alone"
ROUNDS = 3


def main() -> None:
    """Time, draw, write."""
    torch.manual_seed(0)
    sweeps: dict[str, dict[str, dict]] = {}
    for variable, values in SWEEPS.items():
        sweeps[variable] = {}
        for value in values:
            size = {**BASE, variable: value}
            sweeps[variable][str(value)] = rows = _times(**size)
            for name, row in rows.items():
                print(f"{variable} = {value:6d}  {name:44s} {row['ms']:9.1f} ms", flush=True)
    settings = {"d_in": D_IN, **BASE, "rounds": ROUNDS, "threads": torch.get_num_threads()}
    write_result(__file__, {"settings": settings, "sweeps": sweeps})
    _draw(sweeps)


def _times(batch: int, d_sae: int, k: int) -> dict[str, dict[str, float]]:
    """Time the steps at one size; the optimiser of Kron also by itself."""
    x = torch.randn(batch, D_IN)
    steps: dict[str, Callable[[], Any]] = {}
    for name in NAMES:
        made = trainer(make(name, D_IN, d_sae, k), batch)
        steps[name] = partial(made.step, x)
        if name == KRON:
            steps[UPDATE] = partial(_update, made)
    found = interleaved(steps, rounds=ROUNDS, against=TOPK)
    del steps
    gc.collect()
    return found


def _update(made: Any) -> None:
    """Clip and update, with gradients that are there already after the first time."""
    for parameter in made.sae.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    torch.nn.utils.clip_grad_norm_(made.sae.parameters(), 1.0)
    made.optimizer.step()


def _draw(sweeps: dict[str, dict[str, dict]]) -> None:
    titles = {"d_sae": "latents F", "k": "budget k", "batch": "tokens B"}
    figure = make_subplots(
        rows=1, cols=len(sweeps), shared_yaxes=True, subplot_titles=[f"by {t}" for t in titles.values()]
    )
    palette = ("#636363", "#d95f02", "#7570b3", "#1b9e77", "#e7298a", "#fdae6b")
    for column, (variable, rows) in enumerate(sweeps.items(), start=1):
        for color, name in zip(palette, next(iter(rows.values())), strict=True):
            figure.add_scatter(
                x=[int(value) for value in rows],
                y=[row[name]["ms"] / 1000 for row in rows.values()],
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": color, "dash": "dot" if name == UPDATE else "solid"},
                row=1,
                col=column,
            )
        figure.update_xaxes(title=titles[variable], type="log", dtick="D2", row=1, col=column)
    figure.update_yaxes(type="log", title="seconds a step", row=1, col=1)
    figure.update_yaxes(type="log")
    figure.update_layout(title="Training step, float32", legend={"orientation": "h", "y": -0.2})
    write_figure(__file__, figure, height=520)


if __name__ == "__main__":
    main()

"""What SAEs recover of features that share a subspace, against its dimensions: the subspace, the features, and whether seeds agree.

Eight TopK SAEs see the same batches of a LowRankFeatureModel and differ in their initial weights. Half of its features are orthogonal
to all others; the other half lie in a subspace of r dimensions, from 4 to as many as there are of them.

    python benchmarks/stability_synthetic.py        writes stability_synthetic.json and .svg; some minutes
"""

from collections.abc import Iterable
from dataclasses import asdict
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from domain_saes import BATCH, explained_variance, trainer_config
from plotly.subplots import make_subplots
from result import write_figure, write_result
from sae_lens import SAE, TopKTrainingSAE, TopKTrainingSAEConfig, TrainingSAE
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from sae_lens.util import temporary_seed

from sae_lens_ext.analysis.stability import feature_stability, firing_rates_on
from sae_lens_ext.analysis.stability.synthetic.figure import COLOURS
from sae_lens_ext.analysis.stability.synthetic.model import GROUPS, LOW_RANK, LowRankFeatureModel
from sae_lens_ext.analysis.stability.synthetic.recovery import MEASURES, FeatureRecovery
from sae_lens_ext.architectures.inference import as_inference

RANKS = (4, 8, 16, 32, 64)
SEEDS = range(8)
D_IN = 128
"""The dimensions of the largest rank and one for each independent feature, so that these are orthogonal at every rank."""
STEPS, LR = 1000, 3e-3
DATA_SEED, HELD_OUT_SEED, HELD_OUT = 1, 2, 16_384


def trained(model: LowRankFeatureModel, seeds: Iterable[int], steps: int) -> dict[str, SAE]:
    """Train an SAE from each seed on the same batches: a latent for each feature, and k as many as fire at a time on average."""
    size = {
        "d_in": model.d_in,
        "d_sae": model.n_features,
        "k": round(model.n_features * model.firing_probability),
    }
    saes: dict[str, TrainingSAE] = {}
    for seed in seeds:
        with temporary_seed(seed):
            saes[f"seed {seed}"] = TopKTrainingSAE(TopKTrainingSAEConfig(**size))
    data = ({"synthetic": batch} for batch in model.batches(BATCH, DATA_SEED))
    MultiSAETrainer(trainer_config(steps, LR), saes, dict.fromkeys(saes, "synthetic"), data).fit()
    return {name: as_inference(sae) for name, sae in saes.items()}


def measured(
    model: LowRankFeatureModel, seeds: Iterable[int] = SEEDS, steps: int = STEPS
) -> tuple[FeatureRecovery, float]:
    """Train, and measure what was recovered, and the mean explained variance."""
    saes = trained(model, seeds, steps)
    held_out = model.sample(HELD_OUT, HELD_OUT_SEED)
    report = feature_stability(saes, firing_rates=firing_rates_on(saes, held_out), show_progress=False)
    recovery = model.recovery(saes, report, n_samples=HELD_OUT, seed=HELD_OUT_SEED)
    return recovery, fmean(explained_variance(sae, held_out)[0] for sae in saes.values())


def main() -> None:
    """Train, measure, draw, write."""
    recoveries: dict[int, FeatureRecovery] = {}
    rows: dict[int, dict[str, Any]] = {}
    for rank in RANKS:
        recovery, variance = measured(LowRankFeatureModel(d_in=D_IN, rank=rank))
        print(f"r = {rank}, explained variance {variance:.3f}: {recovery!r}", flush=True)
        recoveries[rank] = recovery
        rows[rank] = {"explained_variance": variance} | {
            group: {
                measure: {
                    "mean": recovery.mean(measure, group),
                    "deviation": recovery.deviation(measure, group),
                }
                for measure in MEASURES
            }
            for group in GROUPS
        }
    settings = {"steps": STEPS, "batch": BATCH, "lr": LR, "seeds": list(SEEDS), "data_seed": DATA_SEED}
    model = {name: value for name, value in asdict(recoveries[RANKS[0]].model).items() if name != "rank"}
    write_result(__file__, {"model": model, "training": settings, "by_rank": rows})
    write_figure(__file__, figure(recoveries))


def figure(recoveries: dict[int, FeatureRecovery]) -> go.Figure:
    """Draw p̂, the cosine with the truth and the energy in the subspace against its dimensions; what chance gives is dotted."""
    panels = {
        "reappearance": "p̂: seeds agree",
        "truth_cosine": "cosine: features are found",
        "projection_energy": "energy: the subspace is found",
    }
    drawing = make_subplots(
        rows=1,
        cols=3,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=list(panels.values()),
    )
    ranks = list(recoveries)
    for column, measure in enumerate(panels, start=1):
        for group in GROUPS:
            drawing.add_scatter(
                x=ranks,
                y=[recovery.mean(measure, group) for recovery in recoveries.values()],
                error_y={
                    "type": "data",
                    "array": [recovery.deviation(measure, group) for recovery in recoveries.values()],
                },
                mode="lines+markers",
                name=f"{group.replace('_', '-')} features",
                legendgroup=group,
                showlegend=column == 1,
                line={"color": COLOURS[group]},
                row=1,
                col=column,
            )
        chance = [
            recovery.chance_energy
            if measure == "projection_energy"
            else recovery.mean(f"null_{measure}", LOW_RANK)
            for recovery in recoveries.values()
        ]
        drawing.add_scatter(
            x=ranks,
            y=chance,
            mode="lines",
            name="chance, low-rank",
            legendgroup="chance",
            showlegend=column == 1,
            line={"color": COLOURS[LOW_RANK], "dash": "dot"},
            row=1,
            col=column,
        )
    drawing.update_xaxes(title="dimensions of the subspace, r", type="log", tickvals=ranks)
    drawing.update_yaxes(range=[0, 1.05])
    drawing.update_layout(
        title=f"{len(next(iter(recoveries.values())).names)} TopK SAEs, 64 features in r dimensions beside 64 orthogonal ones",
        legend={"orientation": "h", "y": -0.25},
    )
    return drawing


if __name__ == "__main__":
    main()

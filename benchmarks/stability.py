"""How stable TopK, HierarchicalTopK and Kron are over seeds, and how that comes about with the tokens of training.

Twelve seeds of SAELens' TopK, four of HierarchicalTopK and four of Kron, at equal latents, k, tokens, text, learning rate and data
order (benchmarks/stability_saes.py trains them). The architectures are compared at four seeds each; TopK's twelve make three such
groups, whose spread says what a difference between architectures must exceed.

    python benchmarks/stability.py
"""

import json
from statistics import fmean, stdev

import plotly.graph_objects as go
import torch
from domain_saes import GENERAL, cached_activations, explained_variance
from plotly.colors import qualitative
from plotly.subplots import make_subplots
from result import write_figure, write_result
from sae_lens import SAE
from stability_saes import BATCH, D_SAE, FOLDER, HOOK, LR, SEEDS, TOKENS, K, on_the_way, stability_saes

from sae_lens_ext import FiringRates, StabilityReport, feature_stability, firing_rates_on

RATE_TOKENS = 98_304
GROUP = 4
COLOURS = {"topk": qualitative.Safe[1], "hierarchical_topk": qualitative.Safe[4], "kron": qualitative.Safe[3]}


def described(report: StabilityReport, rates: FiringRates) -> dict[str, object]:
    """Give what the tables show of a report; shares are means over anchors, with their standard deviation."""
    shares = {
        name: {"mean": round(fmean(report.shares(name)), 4), "sd": round(stdev(report.shares(name)), 4)}
        for name in ("stable", "middle", "unstable", "excluded")
    }
    p_hat = [float(p[kept].mean()) for p, kept in zip(report.reappearance, report.included, strict=True)]
    return {
        "seeds": len(report.names),
        **shares,
        "mean_reappearance": {"mean": round(fmean(p_hat), 4), "sd": round(stdev(p_hat), 4)},
        "null_match_rate": report.null_match_rate,
        "chance_maximum": round(report.chance_maximum, 4),
        "pw_mcc": round(report.pw_mcc, 4),
        "mmcs": round(report.mmcs, 4),
        "shared": None if report.shared_fraction is None else round(report.shared_fraction, 4),
        "agreement_iou": round(report.agreement, 4),
        "dead": fmean(int((r == 0).sum()) for r in rates.rates),
        "firing_rate": {
            label: {"mean": round(float(own.mean()), 5), "median": round(float(own.median()), 5)}
            for label, own in (
                (label, rates_of_class(report, label)) for label in ("stable", "middle", "unstable")
            )
        },
        "min_firing_rate": round(report.min_firing_rate, 6),
    }


def rates_of_class(report: StabilityReport, label: str) -> torch.Tensor:
    """Give the firing rates of all anchors' latents of a class, [n]."""
    rates = report.firing_rates or ()
    return torch.cat([rate[report.members(label, anchor)] for anchor, rate in enumerate(rates)])


def floor_sweep(saes: list[SAE], rates: FiringRates) -> dict[str, dict]:
    """Measure with other firing floors than 100 firings."""
    return {
        name: described(feature_stability(saes, firing_rates=rates, min_firing_rate=floor), rates)
        for name, floor in (("any firing", 0.0), ("10 firings", 10 / rates.n_tokens))
    }


def measured(saes: list[SAE], activations: torch.Tensor) -> tuple[StabilityReport, FiringRates]:
    """Measure the stability of SAEs."""
    rates = firing_rates_on(saes, activations)
    return feature_stability(saes, firing_rates=rates), rates


def at_equal_seeds(saes: dict[str, list[SAE]], activations: torch.Tensor) -> dict[str, list[dict]]:
    """Measure each architecture at four seeds; as many disjoint groups as there are."""
    return {
        name: [
            described(*measured(own[i : i + GROUP], activations))
            for i in range(0, len(own) - GROUP + 1, GROUP)
        ]
        for name, own in saes.items()
    }


def threshold_sweep(report: StabilityReport) -> dict[str, float]:
    """Give mean p̂ at other thresholds than 0.7."""
    return {
        f"{theta:.2f}": round(
            fmean(
                float((cosines[:, kept] >= theta).float().mean())
                for cosines, kept in zip(report.max_cosines, report.included, strict=True)
            ),
            4,
        )
        for theta in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    }


def figure(by_tokens: dict[str, dict[int, list[dict]]]) -> go.Figure:
    """Draw p̂ and EV against tokens of training."""
    drawing = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=("mean p̂ (bars: standard deviation over anchors)", "explained variance"),
    )
    for name, points in by_tokens.items():
        x = [tokens / 1e6 for tokens in points]
        for column, key in ((1, "mean_reappearance"), (2, "ev")):
            drawing.add_scatter(
                x=x,
                y=[point[key]["mean"] for point in points.values()],
                error_y={"array": [point[key]["sd"] for point in points.values()]},
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": COLOURS[name]},
                row=1,
                col=column,
            )
    drawing.update_xaxes(title_text="tokens of training, millions")
    drawing.update_layout(legend={"orientation": "h", "y": -0.2})
    return drawing


def main() -> None:
    """Measure and write the result and the figure."""
    training, held_out = cached_activations(GENERAL)
    activations = training[:RATE_TOKENS]
    saes = stability_saes()
    all_seeds = {}
    for name, own in saes.items():
        report, rates = measured(own, activations)
        quality = [explained_variance(sae, held_out) for sae in own]
        all_seeds[name] = {
            **described(report, rates),
            "ev": {"mean": fmean(ev for ev, _ in quality), "sd": stdev(ev for ev, _ in quality)},
            "l0": fmean(l0 for _, l0 in quality),
            "mean_reappearance_by_threshold": threshold_sweep(report),
            "at_other_floors": floor_sweep(own, rates),
        }
        print(name, report)
        if name == "topk":
            eight, _ = measured(own[:8], activations)
            report_figure = eight.plot()
            all_seeds["topk_8"] = described(eight, rates)
    by_tokens: dict[str, dict[int, dict]] = {name: {} for name in saes}
    for tokens, then in [*on_the_way().items(), (TOKENS // BATCH * BATCH, saes)]:
        for name, own in then.items():
            group = own[:GROUP]
            evs = [explained_variance(sae, held_out)[0] for sae in group]
            by_tokens[name][tokens] = {
                **described(*measured(group, activations)),
                "ev": {"mean": round(fmean(evs), 4), "sd": round(stdev(evs), 4)},
            }
    write_result(
        __file__,
        {
            "hook": HOOK,
            "settings": {"d_sae": D_SAE, "k": K, "tokens": TOKENS, "batch": BATCH, "lr": LR},
            "seeds": {name: len(seeds) for name, seeds in SEEDS.items()},
            "training_seconds": json.loads((FOLDER / "trained/saes.json").read_text())["seconds"],
            "rate_tokens": RATE_TOKENS,
            "all_seeds": all_seeds,
            "four_seeds": at_equal_seeds(saes, activations),
            "by_tokens": by_tokens,
        },
    )
    write_figure(__file__, figure(by_tokens))
    write_figure(__file__.replace(".py", "_topk.py"), report_figure)


if __name__ == "__main__":
    main()

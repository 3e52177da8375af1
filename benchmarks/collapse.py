"""Representation collapse by layer: matrix entropy and separability (arXiv 2502.09245), of the embedded model and of small ones with and without LIMe.

Of the embedded model on the encyclopedia: the residual stream and the values, with all positions as in the paper's code, and the entropy once more without the first
position, whose norm is a hundred times that of others. Of the small language models that lime_language_model.py trained, on its held-out documents, a report for
each seed: each layer's own values, and with LIMe those that attention reads, too. Words are told apart with as many occurrences of each as the
rarest has, up to the paper's 1668.

Models run in bfloat16 autocast on the embedded model and in float32 on the small ones; entropies and probes are computed in float64.

    python benchmarks/collapse.py                      # the embedded model: six minutes on two cores
    python benchmarks/collapse.py --small              # and the small models, after lime_language_model.py
    python benchmarks/collapse.py --small --no-embedded
    python benchmarks/collapse.py --tiny               # a check in seconds, on a random model; results go into benchmarks/.cache
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
import torch
from result import write_figure, write_result
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.analysis.collapse import CollapseReport, collapse_report, plot_collapse
from sae_lens_ext.embedded import embedded_texts, load_embedded_model
from sae_lens_ext.lime import attach_lime

ALPHAS = (0.5, 1.0, 2.0)
"""The first is that of the paper's code."""
CONTEXT, ENTROPY_TOKENS, PER_WORD = 128, 32_768, 1668
WORDS = (" is", " are", " was", " were")
SMALL_VARIANTS, SMALL_SEEDS = ("plain", "LIMe", "average"), (0, 1, 2)
TINY_FOLDER = Path(__file__).with_name(".cache") / "collapse_tiny"
Groups = dict[str, list[CollapseReport]]


def embedded_reports() -> dict[str, CollapseReport]:
    """Measure the embedded model, with all positions and without the first."""
    model: Any = load_embedded_model("bridge")
    texts = embedded_texts("encyclopedia").documents  # all: the rarest word needs them
    settings: dict[str, Any] = {"alpha": ALPHAS, "context_size": CONTEXT, "autocast": True, "batch_size": 16}
    return {
        "all positions": collapse_report(
            model, texts, words=WORDS, per_word=PER_WORD, max_tokens=ENTROPY_TOKENS, **settings
        ),
        "without the first position": collapse_report(
            model,
            texts,
            sites=("residual",),
            words=None,
            skip_positions=1,
            max_tokens=ENTROPY_TOKENS // 4,
            **settings,
        ),
    }


def small_reports() -> Groups:
    """Measure the models that lime_language_model.py trained, a report for each seed."""
    from lime_language_model import load_trained

    found: Groups = {}
    for variant in SMALL_VARIANTS:
        for seed in SMALL_SEEDS:
            model, routers, _, tokens = load_trained(variant, seed)
            report = collapse_report(
                model,
                tokens,
                routers=routers,
                sites=("residual", "keys", "values"),
                alpha=ALPHAS,
                words=WORDS,
                per_word=PER_WORD,
                max_tokens=ENTROPY_TOKENS,
                batch_size=64,
            )
            found.setdefault(variant, []).append(report)
            print(variant, seed, report, flush=True)
    return found


def tiny_reports() -> Groups:
    """Measure random models on random tokens, plain and with random routers."""
    cfg = {
        "n_layers": 2,
        "d_model": 16,
        "n_heads": 2,
        "d_head": 8,
        "d_mlp": 32,
        "d_vocab": 20,
        "n_ctx": 16,
        "act_fn": "gelu",
    }
    tokens = torch.randint(20, (40, 16), generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {
        "alpha": ALPHAS,
        "words": (3, 5, 7, 9),
        "max_tokens": 256,
        "sites": ("residual", "keys", "values"),
    }
    found: Groups = {"plain": [], "LIMe": []}
    for seed in (0, 1):
        model: Any = TransformerBridge.boot_native({**cfg, "seed": seed})
        found["plain"].append(collapse_report(model, tokens, **settings))
        with attach_lime(model, initial="random", seed=seed) as routers:
            found["LIMe"].append(collapse_report(model, tokens, routers=routers, **settings))
    return found


def shown(report: CollapseReport) -> dict[str, Any]:
    """Give what is noted of a report."""
    return {
        "model": report.provenance["model_name"],
        "sequences": report.n_sequences,
        "positions": report.n_positions,
        "words": list(report.words),
        "occurrences_of_each_word": report.per_word,
        "chance": report.chance,
        "max_entropy": dict(report.max_entropy),
        "autocast": report.provenance["autocast"],
        "skip_positions": report.provenance["skip_positions"],
        "rows": json.loads(report.to_frame().to_json(orient="records")),
    }


def over_seeds(groups: Groups) -> dict[str, Any]:
    """Give means over seeds with the lowest and the highest, by variant and site, [layers]."""
    found: dict[str, Any] = {}
    for name, reports in groups.items():
        found[name] = {}
        for site in reports[0].sites:
            entropy = list(zip(*([e.value for e in report.entropy[site]] for report in reports), strict=True))
            accuracy = list(zip(*(report.separability[site] for report in reports), strict=True))
            found[name][site] = {
                "layers": list(reports[0].layers[site]),
                "entropy": _spread(entropy),
                "separability": _spread(accuracy),
            }
    return found


def _spread(by_layer: list[tuple[float, ...]]) -> dict[str, list[float]]:
    return {
        "mean": [fmean(of) for of in by_layer],
        "lowest": [min(of) for of in by_layer],
        "highest": [max(of) for of in by_layer],
    }


def group_figures(groups: Groups) -> dict[str, go.Figure]:
    """Draw the residual stream, and what attention reads beside each layer's own values; by ending of the file's name."""
    values = [
        site for site in ("values", "routed values") if any(site in of[0].sites for of in groups.values())
    ]
    return {
        "_small_residual": plot_collapse(groups, sites=("residual",)),
        "_small_values": plot_collapse(groups, sites=values),
    }


def main() -> None:
    """Measure, and write JSON and figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="Also the small models that lime_language_model.py trained."
    )
    parser.add_argument(
        "--no-embedded", action="store_true", help="Keep what the JSON has of the embedded model."
    )
    parser.add_argument("--tiny", action="store_true", help="A check in seconds.")
    parser.add_argument(
        "--no-figures", action="store_true", help="Write the JSON alone; figures need kaleido and a Chromium."
    )
    options = parser.parse_args()
    script = TINY_FOLDER / Path(__file__).name if options.tiny else Path(__file__)
    script.parent.mkdir(parents=True, exist_ok=True)
    before = script.with_suffix(".json")
    result: dict[str, Any] = json.loads(before.read_text()) if before.is_file() else {}
    result.pop("machine", None)
    figures: dict[str, go.Figure] = {}
    if not options.tiny and not options.no_embedded:
        started = time.monotonic()
        reports = embedded_reports()
        result["embedded"] = {name: shown(report) for name, report in reports.items()}
        result["seconds_embedded"] = time.monotonic() - started
        write_result(str(script), result)
        figures[""] = reports["all positions"].plot()
        figures["_first_position"] = plot_collapse(dict(reports), measure="entropy", sites=("residual",))
    if options.small or options.tiny:
        started = time.monotonic()
        groups = tiny_reports() if options.tiny else small_reports()
        result["small"] = {
            "over_seeds": over_seeds(groups),
            "reports": {name: [shown(report) for report in of] for name, of in groups.items()},
        }
        result["seconds_small"] = time.monotonic() - started
        write_result(str(script), result)
        figures |= group_figures(groups)
    for ending, drawn in figures.items() if not options.no_figures else ():
        write_figure(str(script.with_stem(script.stem + ending)), drawn)


if __name__ == "__main__":
    main()

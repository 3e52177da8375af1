"""Steering by one feature against a flow graph's cumulative set, by strength (2502.03032, section 4.3), without an LLM judge.

Five themes; a theme's feature is chosen by what it fires on (flow_themes.py), and behaviour is measured by other words: their share among
a completion's, relative to that in the theme's own texts, at most 1. Coherence is the unsteered model's likelihood of the completion and its
variety; the score is the product. BOS is left alone, where features fire that should not. Against adding the seed feature with strength s
stand: the same with the total dose of the cumulative set; the seed's direction at all the places of the set, dose by dose; and the set.
To suppress, openings of the theme's texts are continued, the score is (1 − behaviour) × coherence, and r is swept instead.

    python benchmarks/flow_steering.py        # half an hour on two cores
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import plotly.graph_objects as go
from flow_saes import flow_saes
from flow_themes import CHOOSING, MEASURING, THEMES, read_top_activations, theme_features
from result import write_figure, write_result
from tqdm.auto import tqdm

from sae_lens_ext import (
    AddFeature,
    AddVector,
    DoseResponse,
    FlowGraph,
    ScaleFeature,
    dose_response,
    embedded_texts,
    flow_steering,
    load_embedded_model,
    share_of_words,
    trace_feature,
)
from sae_lens_ext.steering.dose_response.estimates import dose_estimates
from sae_lens_ext.steering.flow_steering import layer_strengths

STRENGTHS = (2.0, 6.0, 18.0, 54.0)
FACTORS = (0.0, -8.0, -64.0)
PROMPTS = (  # of equal length in tokens, so that they are sampled together
    "I would like to tell you about",
    "The first thing to know is that",
    "Yesterday I was reading about the",
    "Here is a short story of a",
    "My best friend told me that the",
    "It is very well known that the",
    "In the following we will see how",
    "What I like best about it is",
)
THEME_TEXT = {"cooking": "recipes", "scripture": "kjv", "code": "python_source"}
"""Where a theme's own texts are; the others' are in the encyclopedia."""
N_THEME_TEXTS, THEME_WORDS, PROMPT_TOKENS = 8, 40, 12
SAMPLES, MAX_NEW_TOKENS, MAX_NEW_TOKENS_SUPPRESS = 2, 36, 96
N_THEMES = 5
"""The first of flow_themes.py's ten: all take an hour."""
NOT_BOS = slice(1, None)
SEED, SEED_DOSE, SEED_PLACES, CUMULATIVE = (
    "seed feature",
    "seed feature, total dose",
    "seed direction at all places",
    "cumulative",
)


def theme_texts(theme: str) -> list[str]:
    """Give the openings of the training documents that are fullest of a theme's measuring words."""
    documents = [
        " ".join(document.split()[:THEME_WORDS])
        for document in embedded_texts(THEME_TEXT.get(theme, "encyclopedia"), split="train")
        if len(document.split()) >= THEME_WORDS
    ]
    return sorted(documents, key=share_of_words(MEASURING[theme].split()), reverse=True)[:N_THEME_TEXTS]


def behaviour_of(theme: str, texts: list[str]) -> Callable[[str], float]:
    """Give what measures a completion: the share of its words that are the theme's, 1 for as many as in the theme's own texts."""
    share = share_of_words(MEASURING[theme].split())
    full = sum(map(share, texts)) / len(texts)
    return lambda completion: min(1.0, share(completion) / full)


def activating(saes: dict, graph: FlowGraph, seed: tuple[str, int]) -> dict[str, Callable]:
    """Give the ways to add a theme's features, each by its strength."""
    hook, index = seed
    layers = [graph.site(name).layer for name, _ in graph.nodes]
    direction = graph.sites.rows(hook)[index].clone()

    def doses(s: float) -> list[float]:
        by_layer = layer_strengths(sorted(set(layers)), s)
        return [by_layer[layer] for layer in layers]

    def at_all_places(s: float):
        places = zip(graph.nodes, doses(s), strict=True)
        return sum(AddVector(name, direction, dose, positions=NOT_BOS) for (name, _), dose in places)

    return {
        SEED: lambda s: AddFeature(saes[hook], index, s, positions=NOT_BOS),
        SEED_DOSE: lambda s: AddFeature(saes[hook], index, sum(doses(s)), positions=NOT_BOS),
        SEED_PLACES: at_all_places,
        CUMULATIVE: lambda s: flow_steering(graph, s, positions=NOT_BOS),
    }


def suppressing(saes: dict, graph: FlowGraph, seed: tuple[str, int]) -> dict[str, Callable]:
    """Give the ways to suppress a theme's features, each by the factor r."""
    return {
        SEED: lambda r: ScaleFeature(saes[seed[0]], seed[1], r, positions=NOT_BOS),
        CUMULATIVE: lambda r: flow_steering(
            graph, r, mode="suppress", schedule="constant", positions=NOT_BOS
        ),
    }


def rows_of(found: DoseResponse) -> list[dict]:
    """Give a curve's rows for JSON, the unsteered model's first, with the strength None."""
    return [
        {
            "strength": row.strength,
            **{
                name: None if measure is None else round(measure.value, 4)
                for name, measure in vars(row).items()
                if name != "strength"
            },
            "score_interval": [row.score.low, row.score.high],
        }
        for row in (found.unsteered, *found.rows)
    ]


def at_its_best(found: DoseResponse) -> float:
    """Give the score at the best strength, which is chosen on one half of the prompts and judged on the other, and the reverse."""
    n = len(found.prompts)

    def by_prompt(strength: float | None) -> dict[str, np.ndarray]:
        mine = [c for c in found.completions if c.strength == strength]
        return {
            name: np.array([np.mean([getattr(c, name) for c in mine if c.prompt == p]) for p in range(n)])
            for name in ("behaviour", "cross_entropy", "distinct_bigrams")
        }

    def score(strength: float, prompts: np.ndarray) -> float:
        steered, own = ({k: v[prompts] for k, v in by_prompt(s).items()} for s in (strength, None))
        every = np.tile(np.arange(len(prompts)), (2, 1))
        return dose_estimates(steered, own, found.mode, every)["score"].value

    halves = (np.arange(0, n, 2), np.arange(1, n, 2))
    strengths = [row.strength for row in found.rows if row.strength is not None]
    judged = []
    for choosing, judging in (halves, halves[::-1]):
        best = max(strengths, key=partial(score, prompts=choosing))
        judged.append(score(best, judging))
    return round(float(np.mean(judged)), 4)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--themes", default=",".join(THEMES[:N_THEMES]))
    options = parser.parse_args()
    model, saes, tops = load_embedded_model("bridge"), flow_saes(), read_top_activations()
    seeds = theme_features(tops)
    activate, suppress, best, best_suppress, examples, graphs = {}, {}, {}, {}, {}, {}
    for theme in tqdm(options.themes.split(","), desc="Themes"):
        texts, seed = theme_texts(theme), seeds[theme]
        behaviour = behaviour_of(theme, texts)
        graph = trace_feature(saes, seed, forward=False)
        graphs[theme] = {"seed": list(seed), "features": len(graph.nodes)}
        activate[theme], best[theme], suppress[theme], best_suppress[theme] = {}, {}, {}, {}
        for name, of in activating(saes, graph, seed).items():
            found = dose_response(
                model,
                of,
                STRENGTHS,
                PROMPTS,
                behaviour=behaviour,
                theme_texts=texts,
                max_new_tokens=MAX_NEW_TOKENS,
                samples_per_prompt=SAMPLES,
                batch_size=32,
                show_progress=False,
            )
            activate[theme][name], best[theme][name] = rows_of(found), at_its_best(found)
            if name in (SEED_DOSE, CUMULATIVE):
                examples.setdefault(theme, {})[name] = {str(s): found.texts(s)[0] for s in (None, *STRENGTHS)}
        openings = [model.to_string(model.to_tokens(t)[0, 1 : 1 + PROMPT_TOKENS]) for t in texts]
        for name, of in suppressing(saes, graph, seed).items():
            found = dose_response(
                model,
                of,
                FACTORS,
                openings,
                behaviour=behaviour,
                mode="suppress",
                max_new_tokens=MAX_NEW_TOKENS_SUPPRESS,
                batch_size=32,
                show_progress=False,
            )
            suppress[theme][name], best_suppress[theme][name] = rows_of(found), at_its_best(found)
        print(theme, graphs[theme], best[theme], best_suppress[theme], flush=True)
    result = {
        "settings": {
            "strengths": STRENGTHS,
            "factors": FACTORS,
            "prompts": PROMPTS,
            "samples_per_prompt": SAMPLES,
            "new_tokens": [MAX_NEW_TOKENS, MAX_NEW_TOKENS_SUPPRESS],
            "words_that_choose": CHOOSING,
            "words_that_measure": MEASURING,
            "thresholds": "null",
            "positions": "all but BOS",
        },
        "graphs": graphs,
        "activate": {"by_strength": over_themes(activate), "at_its_best": paired(best)},
        "suppress": {"by_strength": over_themes(suppress), "at_its_best": paired(best_suppress)},
        "by_theme": {
            "activate": activate,
            "suppress": suppress,
            "best": best,
            "best_suppress": best_suppress,
        },
        "completions": examples,
    }
    write_result(__file__, result)
    write_figure(__file__, curves(result["activate"]["by_strength"], "strength s", "behaviour × coherence"))
    write_figure(
        __file__.replace(".py", "_suppress.py"),
        curves(result["suppress"]["by_strength"], "factor r", "(1 − behaviour) × coherence"),
    )


def over_themes(found: dict) -> dict[str, list[dict]]:
    """Give each set's means over themes by strength, and its score's difference from the seed feature's, see `difference`."""
    means: dict[str, list[dict]] = {}
    first = next(iter(found.values()))
    for name in first:
        means[name] = []
        for i, row in enumerate(first[name]):
            values = {
                what: np.array([found[theme][name][i][what] for theme in found], dtype=float)
                for what in ("behaviour", "coherence", "distinct_bigrams", "score")
            }
            against = {
                other: difference(values["score"], [found[theme][other][i]["score"] for theme in found])
                for other in first
                if other != name
            }
            means[name].append(
                {
                    "strength": row["strength"],
                    **{what: round(float(v.mean()), 4) for what, v in values.items()},
                    "score_minus": against,
                }
            )
    return means


def paired(best: dict[str, dict[str, float]]) -> dict[str, dict]:
    """Give each set's mean score at its best strength, and its difference from the others'."""
    names = list(next(iter(best.values())))
    scores = {name: np.array([best[theme][name] for theme in best]) for name in names}
    return {
        name: {
            "score": round(float(scores[name].mean()), 4),
            "score_minus": {
                other: difference(scores[name], scores[other]) for other in names if other != name
            },
        }
        for name in names
    }


def difference(ours: np.ndarray, theirs) -> dict:
    """Give the mean difference over themes, its 95 % interval by bootstrap over themes, and how many themes it is above 0 in."""
    gap = np.asarray(ours) - np.asarray(theirs)
    drawn = gap[np.random.default_rng(0).integers(len(gap), size=(5000, len(gap)))].mean(axis=1)
    return {
        "mean": round(float(gap.mean()), 4),
        "interval": np.quantile(drawn, (0.025, 0.975)).round(4).tolist(),
        "themes_above": int((gap > 0).sum()),
    }


def curves(means: dict[str, list[dict]], across: str, up: str) -> go.Figure:
    """Draw the mean score of each set against the strength."""
    figure = go.Figure()
    for name, rows in means.items():
        swept = rows[1:]  # the first is the unsteered model
        figure.add_scatter(
            x=[str(int(row["strength"])) for row in swept], y=[row["score"] for row in swept], name=name
        )
    level = next(iter(means.values()))[0]["score"]
    figure.add_hline(level, line_dash="dot", annotation_text="unsteered")
    return figure.update_layout(xaxis_title=across, yaxis_title=up, xaxis_type="category")


if __name__ == "__main__":
    main()

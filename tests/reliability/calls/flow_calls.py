"""The public functions of `analysis.flow` that need no language model, with valid arguments."""

from typing import Any

import sae_lens_ext as ext

from .harness import COUNT, SEED, SHARE, Call
from .saes import LARGE, RESIDUAL, SAE_VARIANTS, in_a_collection, make_sae
from .tensors import Variant

WORDS = dict.fromkeys(
    ("sae_a", "sae_b", "target", "residual", "mlp", "attention", "sites"), "SAE|cfg.json|site|hook"
)
MLP = "blocks.1.hook_mlp_out"
THRESHOLDS = (
    Variant("unknown", lambda _: "best", "refused"),
    Variant("a number", lambda _: 0.5, "refused"),
    Variant("a list", lambda _: [0.5], "refused"),
    Variant("None", lambda _: None),
)
STARTS = (
    Variant("None", lambda _: None, "refused"),
    Variant("a string", lambda _: RESIDUAL[1], "refused"),
    Variant("another hook", lambda _: ("blocks.7.hook_resid_post", 0), "refused"),
    Variant("no hook", lambda _: ("nowhere", 0), "refused"),
    Variant("a hook that is None", lambda _: (None, 0), "refused"),
    Variant("index -1", lambda start: (start[0], -1), "refused"),
    Variant("index beyond", lambda start: (start[0], 10**6), "refused"),
    Variant("index 0.5", lambda start: (start[0], 0.5), "refused"),
    Variant("index True", lambda start: (start[0], True), "refused"),
    Variant("index None", lambda start: (start[0], None), "refused"),
    Variant("a number", lambda _: 3, "refused"),
)


def sites() -> dict[str, Any]:
    return {hook: make_sae(seed=i, hook=hook) for i, hook in enumerate((*RESIDUAL, MLP))}


def _several(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Variants of a list of starts: each one's in it, none, and no list."""
    return (
        *(Variant(v.name, lambda starts, v=v: [v.make(starts[0])], v.expects) for v in variants),
        Variant("empty", lambda _: [], "refused"),
        Variant("no list", lambda _: None, "refused"),
        Variant("a number and no list", lambda _: 3, "refused"),
    )


_QUIET = {"n_null": 16, "seed": 0}
_NUMBERS = {"n_null": COUNT - {"huge"}, "seed": SEED}
_NULLS = (Variant("unknown", lambda _: "best", "refused"), Variant("None", lambda _: None, "refused"))
FLOW = (
    Call(
        "match_features",
        ext.match_features,
        lambda: {"sae_a": make_sae(), "sae_b": make_sae(seed=1), "top_k": 2},
        numbers={"top_k": COUNT},
        others={"sae_a": (*SAE_VARIANTS, LARGE), "sae_b": (*SAE_VARIANTS, LARGE)},
        words={**WORDS, "sae_b": "SAE|top_k"},
        compare=lambda match: match.scores.nan_to_num(0),
    ),
    Call(
        "feature_origins",
        ext.feature_origins,
        lambda: {
            "target": make_sae(),
            "residual": make_sae(seed=1, hook=RESIDUAL[0]),
            "mlp": make_sae(seed=2, hook=MLP),
            "thresholds": "null",
            "null": "shuffled",
            "seed": 0,
        },
        numbers={"seed": SEED},
        others={
            "target": SAE_VARIANTS,
            "residual": SAE_VARIANTS,
            "mlp": SAE_VARIANTS,
            "thresholds": THRESHOLDS,
            "null": _NULLS,
        },
        words=WORDS,
        compare=lambda origins: [score.nan_to_num(0) for score in origins.scores.values()],
    ),
    Call(
        "trace_feature",
        ext.trace_feature,
        lambda: {
            "sites": sites(),
            "start": (RESIDUAL[1], 3),
            "thresholds": None,
            "null": "shuffled",
            **_QUIET,
        },
        numbers=_NUMBERS,
        others={"sites": in_a_collection(), "start": STARTS, "thresholds": THRESHOLDS, "null": _NULLS},
        words={**WORDS, "start": "start|hook|SAE|feature"},
        compare=lambda graph: graph.edge_score,
    ),
    Call(
        "trace_features",
        ext.trace_features,
        lambda: {"sites": sites(), "starts": [(RESIDUAL[1], 3)], "show_progress": False, **_QUIET},
        numbers=_NUMBERS,
        others={"sites": in_a_collection(), "starts": _several(STARTS)},
        words={**WORDS, "starts": "start|hook|SAE|feature"},
        compare=lambda graph: graph.edge_score,
    ),
    Call(
        "flow_map",
        ext.flow_map,
        lambda: {"sites": sites(), "show_progress": False, "thresholds": None, **_QUIET},
        numbers=_NUMBERS,
        others={"sites": in_a_collection(), "thresholds": THRESHOLDS},
        words=WORDS,
        compare=lambda graph: graph.edge_score,
    ),
    Call(
        "FlowThresholds",
        ext.FlowThresholds,
        lambda: {"residual": 0.5, "mlp": 0.1, "attention": 0.1, "null_quantile": 0.9},
        numbers=dict.fromkeys(("residual", "mlp", "attention", "null_quantile"), SHARE),
    ),
)

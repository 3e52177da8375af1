"""The public functions of `analysis.stability` that need no language model, with valid arguments."""

from typing import Any

import torch

import sae_lens_ext as ext

from .architectures_calls import activations
from .harness import COUNT, POSITIVE, REAL, SEED, SHARE, Call
from .saes import D_IN, D_SAE, LARGE, SAE_VARIANTS, in_a_collection, make_sae
from .tensors import Variant

WORDS = {
    "saes": "SAE|FileNotFound|cfg.json",
    "references": "SAE|cfg.json",
    "sae": "SAE|cfg.json",
    "report": "report",
}
REPORTS = (
    Variant("None", lambda _: None, "refused"),
    Variant("a number", lambda _: 3, "refused"),
    Variant("of other SAEs", lambda _: report_of({"a": make_sae(seed=11), "b": make_sae(seed=12), "c": make_sae(seed=13)}), "refused"),
)  # fmt: skip


def saes(kind: str = "topk", n: int = 3, first: int = 0) -> dict[str, Any]:
    """SAEs by name that share half of their decoder rows, so that some latents are stable."""
    made = {f"seed_{first + i}": make_sae(kind, seed=first + i) for i in range(n)}
    common = torch.randn(D_SAE // 2, D_IN, generator=torch.Generator().manual_seed(99))
    for sae in made.values():
        sae.W_dec.data[: D_SAE // 2] = common
    return made


def report_of(of: dict[str, Any]) -> Any:
    return ext.feature_stability(of, show_progress=False)


def _rates() -> list[torch.Tensor]:
    return [torch.linspace(0.1, 0.9, D_SAE) for _ in range(3)]


def _labelled() -> dict[str, Any]:
    of = saes()
    return {"saes": of, "report": report_of(of), "show_progress": False}


def _first_rates(variant: Variant) -> Variant:
    return Variant(f"first {variant}", lambda r: [variant.make(r[0]), *r[1:]], "right", variant.finite)


STABILITY = (
    Call(
        "feature_stability",
        ext.feature_stability,
        lambda: {
            "saes": saes(),
            "threshold": 0.7,
            "min_firing_rate": 0.01,
            "firing_rates": _rates(),
            "seed": 0,
            "show_progress": False,
        },
        numbers={"threshold": SHARE - {"0"}, "min_firing_rate": SHARE | {"None"}, "seed": SEED},
        others={
            "saes": in_a_collection(LARGE, fewest=2),
            "firing_rates": (
                Variant("too few", lambda r: r[:1], "refused"),
                Variant("empty", lambda _: [], "refused"),
                Variant("too long", lambda r: [torch.cat([x, x]) for x in r], "refused"),
                Variant("NaN", lambda r: [x * float("nan") for x in r], "refused"),
                Variant("negative", lambda r: [x - 1 for x in r], "refused"),
                Variant("a number", lambda _: 0.5, "refused"),
                Variant("strings", lambda r: ["a"] * len(r), "refused"),
                Variant("zeros", lambda r: [torch.zeros_like(x) for x in r], "refused"),
                Variant("lists", lambda r: [x.tolist() for x in r], "same"),
                Variant("arrays", lambda r: [x.numpy() for x in r], "same"),
                Variant("float64", lambda r: [x.double() for x in r]),
                Variant("requiring grad", lambda r: [x.requires_grad_() for x in r], "same"),
            ),
        },
        words={**WORDS, "firing_rates": "firing.rates?|latent"},
    ),
    Call(
        "firing_rates_on",
        ext.firing_rates_on,
        lambda: {"saes": saes(), "activations": activations(), "batch_size_tokens": 4},
        ("activations",),
        {"batch_size_tokens": COUNT},
        {"saes": in_a_collection(LARGE, fewest=2)},
        words=WORDS,
        compare=lambda rates: rates.rates,
        accepts=frozenset({"activations int64", "activations bool"}),
    ),
    Call(
        "pool_features",
        ext.pool_features,
        lambda: {"saes": saes(), "d_sae": 8, "references": saes(n=2, first=5), "threshold": 0.7, "seed": 0},
        numbers={"d_sae": COUNT, "threshold": SHARE - {"0"}, "seed": SEED},
        others={
            "saes": in_a_collection(fewest=2),
            "references": in_a_collection(fewest=2),
            "order": (Variant("unknown", lambda _: "best", "refused"), Variant("None", lambda _: None, "refused")),
        },
        words=WORDS,
    ),
    Call(
        "retrain_encoder",
        ext.retrain_encoder,
        lambda: {
            "sae": make_sae("topk"),
            "activations": activations(n=16),
            "n_tokens": 32,
            "lr": 0.01,
            "batch_size_tokens": 8,
            "seed": 0,
        },
        ("activations",),
        {"n_tokens": COUNT, "lr": POSITIVE, "batch_size_tokens": COUNT, "seed": SEED},
        {"sae": SAE_VARIANTS},
        words={"sae": "SAE|activations", "batch_size_tokens": "batch"},
        doubled=False,
        skips=frozenset({"n_tokens huge"}),
        accepts=frozenset({"activations int64", "activations bool"}),
    ),
    Call(
        "stability_probe",
        ext.stability_probe,
        lambda: {**_labelled(), "l2": 0.1, "n_folds": 2, "n_shuffles": 1, "seed": 0},
        numbers={"l2": POSITIVE, "n_folds": COUNT, "n_shuffles": COUNT, "seed": SEED},
        skips=frozenset({"n_shuffles huge"}),
        others={"saes": in_a_collection(fewest=2), "report": REPORTS},
        words=WORDS,
    ),
    Call(
        "subspace_report",
        ext.subspace_report,
        lambda: {**_labelled(), "n_draws": 2, "max_partner_cosine": 0.9, "seed": 0},
        numbers={"n_draws": COUNT, "max_partner_cosine": SHARE - {"0"}, "seed": SEED},
        skips=frozenset({"n_draws huge"}),
        others={
            "saes": in_a_collection(fewest=2),
            "report": REPORTS,
            "ranks": (
                Variant("empty", lambda _: [], "refused"),
                Variant("0", lambda _: [0], "refused"),
                Variant("huge", lambda _: [10**9], "refused"),
                Variant("a number", lambda _: 3, "refused"),
                Variant("strings", lambda _: ["a"], "refused"),
            ),
        },
        words=WORDS,
    ),
    Call(
        "LowRankFeatureModel",
        ext.LowRankFeatureModel,
        lambda: {"d_in": 8, "n_independent": 4, "n_low_rank": 4, "rank": 2, "firing_probability": 0.1, "noise": 0.1, "seed": 0},
        numbers={
            "d_in": COUNT,
            "n_independent": COUNT | {"0"},
            "n_low_rank": COUNT | {"0"},
            "rank": COUNT | {"0"},
            "firing_probability": SHARE | {"numpy integer"},
            "noise": REAL - {"-1"},
            "seed": SEED,
        },
        compare=lambda _: (),
    ),
)  # fmt: skip

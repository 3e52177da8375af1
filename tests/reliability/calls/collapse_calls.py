"""The public functions of `analysis.collapse` that need no language model, with valid arguments."""

from typing import Any

import torch

import sae_lens_ext as ext

from .harness import COUNT, REAL, SEED, Call
from .tensors import Variant

N, T, D = 4, 6, 5


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _classes() -> dict[str, Any]:
    return {"features": _random(24, D), "labels": torch.arange(24) % 3, "n_folds": 2, "seed": 0}


_FLAGS = (Variant("1", lambda _: 1, "refused"), Variant("None", lambda _: None, "refused"))
_ORDERS = (REAL | {"inf"}) - {"-1"}
COLLAPSE = (
    Call(
        "matrix_entropy",
        ext.matrix_entropy,
        lambda: {"z": _random(T, D), "alpha": 0.5},
        ("z",),
        {"alpha": _ORDERS},
    ),
    Call(
        "sequence_entropies",
        ext.sequence_entropies,
        lambda: {"z": _random(N, T, D), "alpha": 0.5, "z_score": True},
        ("z",),
        {"alpha": _ORDERS},
        {"z_score": _FLAGS},
    ),
    Call(
        "separability",
        ext.separability,
        _classes,
        ("features", "labels"),
        {"n_folds": COUNT, "seed": SEED},
        hides=frozenset({"features"}),
        accepts=frozenset({"labels bool"}),
        skips=frozenset({"labels broadcast rows"}),  # one class alone
        words={"labels": "classes"},
    ),
    Call(
        "plot_collapse",
        ext.plot_collapse,
        lambda: {"reports": {}},
        others={
            "reports": (
                Variant("empty", lambda _: {}, "refused"),
                Variant("None", lambda _: None, "refused"),
                Variant("a list", lambda _: [], "refused"),
                Variant("no reports", lambda _: {"a": 3}, "refused"),
            )
        },
        words={"reports": "report"},
    ),
)

"""The public functions of the architectures, with valid arguments."""

from typing import Any

import torch

import sae_lens_ext as ext

from .harness import COUNT, Call
from .saes import D_IN, D_SAE, LARGE, SAE_VARIANTS, K, make_sae
from .tensors import Variant

B = 6
WORDS = {"sae": "SAE|architecture", "base": "SAE"}
STRINGS = (
    Variant("unknown", lambda _: "no such thing", "refused"),
    Variant("empty", lambda _: "", "refused"),
    Variant("None", lambda _: None, "refused"),
    Variant("a number", lambda _: 3, "refused"),
    Variant("a list", lambda name: [name], "refused"),
)


def activations(seed: int = 0, n: int = B) -> torch.Tensor:
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed))


def kron(training: bool = False) -> Any:
    """A small KronSAE with random weights."""
    config, sae_class = (
        (ext.KronTrainingSAEConfig, ext.KronTrainingSAE) if training else (ext.KronSAEConfig, ext.KronSAE)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sae: Any = sae_class(config(d_in=D_IN, d_sae=D_SAE, k=K, base_dim=2, extension_dim=4))
        with torch.no_grad():
            sae.b_enc.normal_()
    return sae


def hierarchical() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ext.HierarchicalTopKTrainingSAE(
            ext.HierarchicalTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K)
        )


def residuals(base: Any) -> dict[str, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {
            name: ext.ResidualTrainingSAE(ext.ResidualTrainingSAEConfig(d_in=D_IN, d_sae=8, k=2), base=base)
            for name in ("code", "law")
        }


def stack() -> Any:
    base = make_sae()
    return ext.ResidualStackSAE.from_saes(base, residuals(base))


def _stacked() -> dict[str, Any]:
    base = make_sae()
    return {"base": base, "residuals": residuals(base)}


MAKERS = {
    "kron": kron,
    "kron training": lambda: kron(True),
    "hierarchical_topk": hierarchical,
    "residual_stack": stack,
}


def _dense(method: str, make: Any) -> Any:
    def call(x: torch.Tensor) -> Any:
        return getattr(make(), method)(x)

    return call


def _values(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


METHODS = tuple(
    Call(
        f"{method} of {name}",
        _dense(method, make),
        lambda: {"x": activations()},
        ("x",),
        compare=_values,
        hides=frozenset({"x one inf", "x one -inf"}),
        accepts=frozenset({"x int64", "x bool"}),
        doubled=False,
    )
    for name, make in MAKERS.items()
    for method in ("encode", "encode_sparse", "pre_latents", "forward")
    if hasattr(make(), method)
)

CONFIGS = tuple(
    Call(cls.__name__, cls, lambda fields=fields: {"d_in": D_IN, "d_sae": D_SAE, **fields}, (), dict.fromkeys(("d_in", "d_sae", *numbers), COUNT))
    for cls, fields, numbers in (
        (ext.KronSAEConfig, {"k": K, "base_dim": 2, "extension_dim": 4}, ("k", "base_dim", "extension_dim")),
        (ext.KronTrainingSAEConfig, {"k": K, "base_dim": 2, "extension_dim": 4}, ("k", "base_dim", "extension_dim")),
        (ext.HierarchicalTopKTrainingSAEConfig, {"k": K}, ("k",)),
        (ext.ResidualTrainingSAEConfig, {"k": K, "base_path": "folder"}, ()),
    )
)  # fmt: skip

ARCHITECTURES = (
    Call("with_k", ext.with_k, lambda: {"sae": make_sae("topk"), "k": 2}, (), {"k": COUNT}, {"sae": SAE_VARIANTS}, words=WORDS),
    Call(
        "budget_curve",
        ext.budget_curve,
        lambda: {"sae": make_sae("topk"), "activations": activations(), "ks": [1, 2, 4]},
        ("activations",),
        others={
            "sae": SAE_VARIANTS,
            "ks": (
                Variant("empty", lambda _: [], "refused"),
                Variant("0", lambda _: [0], "refused"),
                Variant("above k", lambda _: [K + 1], "refused"),
                Variant("a number", lambda _: 3, "refused"),
                Variant("fractions", lambda _: [0.5], "refused"),
                Variant("strings", lambda _: ["1"], "refused"),
                Variant("None", lambda _: None, "refused"),
                Variant("an array", lambda ks: torch.tensor(ks).numpy(), "same"),
            ),
        },
        words=WORDS,
        doubled=False,
    ),
    Call("fold_thresholds", ext.fold_thresholds, lambda: {"sae": make_sae()}, others={"sae": (*SAE_VARIANTS, LARGE)}, words=WORDS),
    Call("weights_fingerprint", ext.weights_fingerprint, lambda: {"sae": make_sae()}, others={"sae": (*SAE_VARIANTS, LARGE)}, words=WORDS),
    Call("cite", ext.cite, lambda: {"name": "kron"}, others={"name": STRINGS}, words={"name": "architecture"}),
    Call("describe", ext.describe, lambda: {"name": "kron"}, others={"name": STRINGS}, words={"name": "architecture"}),
    Call(
        "list_architectures",
        ext.list_architectures,
        lambda: {"pattern": "*"},
        others={"pattern": STRINGS},
        accepts=frozenset({"pattern unknown", "pattern empty"}),
    ),
    Call(
        "ResidualStackSAE.from_saes",
        ext.ResidualStackSAE.from_saes,
        _stacked,
        others={
            "base": SAE_VARIANTS,
            "residuals": (
                Variant("empty", lambda _: {}),
                Variant("None", lambda _: None, "refused"),
                Variant("a list", lambda r: list(r.values()), "refused"),
                Variant("no SAEs", lambda r: dict.fromkeys(r, 3), "refused"),
                Variant("names that are no strings", lambda r: dict(enumerate(r.values())), "refused"),
                Variant("an empty name", lambda r: {"": next(iter(r.values()))}, "refused"),
                Variant("named base", lambda r: {"base": next(iter(r.values()))}, "refused"),
                Variant("of another width", lambda r: {"code": make_sae(d_in=D_IN + 1)}, "refused"),
            ),
        },
        words={"base": "SAE|base|d_in", "residuals": "residual|SAE|domain"},
    ),
    *METHODS,
    *CONFIGS,
)  # fmt: skip

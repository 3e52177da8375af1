"""Small SAEs, and what may stand in the place of one."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from sae_lens import (
    SAE,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)

from .tensors import Variant

D_IN, D_SAE, K = 16, 24, 4
RESIDUAL = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
MANY = 131_072
_KINDS: dict[str, tuple[type[SAE[Any]], type[Any], dict[str, Any]]] = {
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": K}),
    "standard": (StandardSAE, StandardSAEConfig, {}),
}


def make_sae(
    kind: str = "jumprelu", seed: int = 0, *, d_in: int = D_IN, d_sae: int = D_SAE, hook: str = RESIDUAL[1]
) -> SAE[Any]:
    """A random SAE of a residual stream, with latents that fire for some inputs and not for others."""
    sae_class, config_class, fields = _KINDS[kind]
    with torch.random.fork_rng():
        sae = sae_class(config_class(d_in=d_in, d_sae=d_sae, **{k: min(v, d_sae) for k, v in fields.items()}))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
                if name == "threshold":
                    parameter.abs_().add_(0.01)
    sae.cfg.metadata.hook_name = hook
    sae.cfg.metadata.model_name = "tiny"
    return sae


def _copy(sae: SAE[Any]) -> Any:
    return copy.deepcopy(sae)


def _with(change: Callable[[Any], Any]) -> Callable[[SAE[Any]], SAE[Any]]:
    """Give a function that changes a copy of an SAE in place."""

    def make(sae: SAE[Any]) -> SAE[Any]:
        other = _copy(sae)
        with torch.no_grad():
            change(other)
        return other

    return make


def _of_size(**size: int) -> Callable[[SAE[Any]], SAE[Any]]:
    def make(sae: SAE[Any]) -> SAE[Any]:
        fields = {"d_in": sae.cfg.d_in, "d_sae": sae.cfg.d_sae, **size}
        return make_sae(sae.cfg.architecture(), 9, hook=str(sae.cfg.metadata.hook_name), **fields)

    return make


def _training(sae: SAE[Any]) -> SAE[Any]:
    """A training SAE of the same width and hook."""
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )

    made = {
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
        "jumprelu": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    }
    sae_class, config_class = made.get(sae.cfg.architecture(), made["jumprelu"])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        other: Any = sae_class(config_class(d_in=sae.cfg.d_in, d_sae=sae.cfg.d_sae, k=K))
    if hasattr(other, "topk_threshold"):
        other.topk_threshold.fill_(0.01)
    other.cfg.metadata.hook_name = sae.cfg.metadata.hook_name
    other.cfg.metadata.model_name = "tiny"
    return other


def _zero_row(sae: Any) -> None:
    sae.W_dec[0] = 0


def _nan(sae: Any) -> None:
    sae.W_dec[0, 0] = float("nan")
    sae.W_enc[0, 0] = float("nan")


SAE_VARIANTS = (
    Variant("in float16", _with(lambda sae: sae.to(dtype=torch.float16))),
    Variant("in bfloat16", _with(lambda sae: sae.to(dtype=torch.bfloat16))),
    Variant("in float64", _with(lambda sae: sae.to(dtype=torch.float64))),
    Variant("on meta", lambda sae: _copy(sae).to("meta"), "refused"),
    Variant("with NaN in its weights", _with(_nan), finite=False),
    Variant("with a decoder row of zeros", _with(_zero_row)),
    Variant("with a frozen decoder", _with(lambda sae: sae.W_dec.requires_grad_(False)), "same"),
    Variant("in train mode", _with(lambda sae: sae.train()), "same"),
    Variant("of one latent", _of_size(d_sae=1)),
    Variant("of another width", _of_size(d_in=D_IN + 3)),
    Variant("a training SAE", _training),
    Variant("no SAE", lambda _: torch.nn.Linear(2, 2), "refused"),
    Variant("a tensor", lambda sae: sae.W_dec.detach(), "refused"),
    Variant("a folder that is not there", lambda _: "no/such/folder", "refused"),
    Variant("None", lambda _: None),
)
LARGE = Variant("of 131,072 latents", _of_size(d_sae=MANY))


def _first(variant: Variant) -> Variant:
    """The variant of the first SAE of a list or mapping."""

    def make(saes: Any) -> Any:
        if isinstance(saes, dict):
            name = next(iter(saes))
            return {**saes, name: variant.make(saes[name])}
        return [variant.make(saes[0]), *saes[1:]]

    return Variant(f"first {variant}", make, variant.expects, variant.finite)


def in_a_collection(*more: Variant, fewest: int = 1) -> tuple[Variant, ...]:
    """Variants of a list or mapping of SAEs, of at least `fewest`."""
    return (
        *map(_first, (*SAE_VARIANTS, *more)),
        Variant("empty", lambda saes: type(saes)(), "refused"),
        Variant("one SAE and no collection", lambda saes: _any(saes), "refused"),
        Variant("one SAE in a list", lambda saes: [_any(saes)], "refused" if fewest > 1 else "right"),
        Variant("None", lambda _: None),
        Variant("a number", lambda _: 3, "refused"),
        Variant("names that are no strings", lambda saes: dict(enumerate(_all(saes)))),
        Variant("the same SAE twice", lambda saes: [_any(saes), _any(saes)]),
    )


def _all(saes: Any) -> list[Any]:
    return list(saes.values()) if isinstance(saes, dict) else list(saes)


def _any(saes: Any) -> Any:
    return _all(saes)[0]

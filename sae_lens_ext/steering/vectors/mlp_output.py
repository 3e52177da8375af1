"""Whether a bias on the MLP's last projection is an addition to the residual stream: not where a norm or a factor comes between."""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from sae_lens_ext.steering.vectors.bias_keys import HF_LAYER

_NORM_AFTER_MLP = re.compile(r"ln2_post|post_(feedforward|mlp|ffn|ff)\w*norm\w*")
_FACTORS = ("residual_multiplier", "residual_scale", "layer_scalar", "residual_contribution_scale")
_POST_NORM_ARCHITECTURES = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")  # HookedTransformer calls their norm ln2


def require_mlp_adds_directly(caller: str, model: Any) -> None:
    """Raise ValueError if what a block's MLP puts out is normalised or multiplied before it is added to the residual stream, or if the model is none.

    Args:
        caller: Who was given the model, for the message.
        model: A HookedTransformer, a TransformerBridge or a Hugging Face model.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{caller} was given {type(model).__name__} as the model. Give a HookedTransformer, a TransformerBridge or a Hugging Face model."
        )
    cfg = getattr(model, "cfg", None)
    if (
        getattr(cfg, "use_normalization_before_and_after", False)
        or getattr(cfg, "original_architecture", None) in _POST_NORM_ARCHITECTURES
    ):
        _refuse(caller, model, 0, "a norm")
    for layer, block in blocks_of(model):
        for part in _with_original(block):
            for name, _ in part.named_children():
                if _NORM_AFTER_MLP.fullmatch(name):
                    _refuse(caller, model, layer, f"the norm {name!r}")
            mlp = getattr(part, "mlp", None)
            factors = [(name, getattr(part, name, None)) for name in _FACTORS]
            factors.append(("down_multiplier", getattr(mlp, "down_multiplier", None)))
            for name, factor in factors:
                if factor is not None and not _is_one(factor):
                    _refuse(caller, model, layer, f"the factor {name!r}")


def blocks_of(model: Any) -> Iterator[tuple[int, Any]]:
    """Give each block of a model with its layer; of a Hugging Face model the modules called `layers.0` and so on."""
    blocks = getattr(model, "blocks", None)
    if blocks is not None:
        yield from enumerate(blocks)
        return
    for name, module in model.named_modules():
        found = HF_LAYER.fullmatch(name)
        if found:
            yield int(found[1]), module


def _with_original(block: Any) -> list[Any]:
    """A block, and of a TransformerBridge's the Hugging Face layer under it."""
    original = getattr(block, "original_component", None)
    return [block] if original is None else [block, original]


def _is_one(factor: Any) -> bool:
    return bool((factor == 1).all()) if hasattr(factor, "all") else factor == 1


def _refuse(caller: str, model: Any, layer: int, what: str) -> None:
    raise ValueError(
        f"{caller} was given {type(model).__name__}, where {what} stands between the MLP and the residual stream (layer {layer}). There a bias on down_proj is "
        "no constant addition to the block's output, so it is no steering vector. Train vectors of the residual stream itself, or give SteeringVectors."
    )

"""Biases on the MLP's last projection out of a loaded model, and how large a model is."""

from collections.abc import Mapping
from typing import Any

import torch

from sae_lens_ext.steering.vectors.bias_keys import bias_keys, some
from sae_lens_ext.steering.vectors.mlp_output import blocks_of, require_mlp_adds_directly


def model_size(caller: str, model: Any) -> tuple[int, int]:
    """Give the number of layers and d_model of a HookedTransformer, a TransformerBridge or a Hugging Face model.

    Raises:
        ValueError: It is none of these.
    """
    cfg = getattr(model, "cfg", None)
    sizes = getattr(cfg, "n_layers", None), getattr(cfg, "d_model", None)
    if None in sizes:
        config: Any = getattr(model, "config", None)
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        sizes = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    n_layers, d_model = sizes
    if n_layers is None or d_model is None:
        raise ValueError(
            f"{caller} was given {type(model).__name__} as the model, which does not tell its number of layers and width. Give a HookedTransformer, a "
            "TransformerBridge or a Hugging Face model."
        )
    return n_layers, d_model


def model_name_of(model: Any) -> str | None:
    """Name a model of any of these kinds: by its own configuration."""
    named = getattr(getattr(model, "cfg", None), "model_name", None)
    return named or getattr(getattr(model, "config", None), "_name_or_path", None) or None


def require_fits(caller: str, vectors: Mapping[int, torch.Tensor], model: Any) -> None:
    """Raise ValueError unless the model has all the layers, and their width.

    Args:
        caller: What has the vectors, for messages.
        vectors: By layer.
        model: Of any kind that `model_size` knows.
    """
    n_layers, d_model = model_size(caller, model)
    absent = [str(layer) for layer in vectors if layer >= n_layers]
    if absent:
        several = "layers" if len(absent) > 1 else "layer"
        raise ValueError(
            f"{caller} has vectors of {several} {', '.join(absent)}, but the model {type(model).__name__} has the layers 0 to {n_layers - 1}. Give vectors of this "
            "model, or take some with only(...)."
        )
    width = len(next(iter(vectors.values())))
    if width != d_model:
        raise ValueError(
            f"{caller} has vectors of width {width}, but the model {type(model).__name__} has d_model {d_model}. Give vectors of this model."
        )


def model_biases(caller: str, model: Any) -> dict[int, torch.Tensor]:
    """Read a model's biases on the last projection of each MLP; nothing for blocks without one.

    Args:
        caller: Who was given the model, for messages.
        model: A HookedTransformer (`blocks.l.mlp.b_out`), a TransformerBridge (the bias of what it calls `blocks.l.mlp.out`), or a Hugging Face
            model (`model.layers.l.mlp.down_proj.bias`).

    Returns:
        By layer, ascending, as they are in the model.

    Raises:
        ValueError: A norm or a factor stands between the MLP and the residual stream, so that the bias is no addition to it; or the model is of no such kind.
    """
    require_mlp_adds_directly(caller, model)
    if getattr(model, "blocks", None) is not None:
        found = {layer: _b_out(block) for layer, block in blocks_of(model)}
        return {layer: bias for layer, bias in found.items() if bias is not None}
    parameters = dict(model.named_parameters())
    keys = bias_keys(f"The model {type(model).__name__}", parameters)
    return {layer: parameters[key] for layer, key in keys.items()}


def require_biases(caller: str, model: Any, biases: dict[int, torch.Tensor]) -> None:
    """Raise ValueError if a model has no biases at all."""
    if not biases:
        names = [name for name, _ in model.named_parameters() if "mlp" in name]
        raise ValueError(
            f"{caller} was given {type(model).__name__}, which has no bias on the last projection of its MLPs, 'model.layers.0.mlp.down_proj.bias' or blocks.0.mlp.b_out, so "
            f"it holds no steering vectors. Of its MLPs it has {some(names)}. Load the checkpoint that was trained with biases (a Llama needs mlp_bias=True); "
            "give a model with other names, such as GPT-2, as TransformerBridge."
        )


def _b_out(block: Any) -> torch.Tensor | None:
    bias = getattr(getattr(block, "mlp", None), "b_out", None)
    return bias if isinstance(bias, torch.Tensor) else None

"""Whether a model's hooks can carry routing: found out by running it on a few tokens, not by its name."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformer_lens.hook_points import HookPoint

from sae_lens_ext.language_model.evaluating import evaluating
from sae_lens_ext.language_model.hook_points import find_hook_point, hook_points_of, hooked

_PROBE = 4  # tokens


def routing_points(model: Any) -> dict[int, tuple[HookPoint, HookPoint]]:
    """Give the hook points of keys and values by layer.

    Raises:
        ValueError: The model has no hooks, or some layer has none of these.
    """
    hook_points_of(model)
    if getattr(model.cfg, "n_devices", 1) not in (1, None):
        raise _refusal(
            model, f"it is spread over {model.cfg.n_devices} devices, and keys of all layers are mixed on one"
        )
    found: dict[int, tuple[HookPoint, HookPoint]] = {}
    for layer in range(model.cfg.n_layers):
        try:
            found[layer] = (
                find_hook_point(model, f"blocks.{layer}.attn.hook_k"),
                find_hook_point(model, f"blocks.{layer}.attn.hook_v"),
            )
        except ValueError as error:
            raise _refusal(
                model, f"layer {layer} has no attention with hook_k and hook_v ({error})"
            ) from error
    return found


def require_carries_routing(model: Any, points: Mapping[int, tuple[HookPoint, HookPoint]]) -> int:
    """Run the model on a few tokens and give the number of key-value heads, the same in every layer.

    Every layer's keys and values are nudged by noise that requires a gradient; if attention reads what the hooks return, each has one.

    Raises:
        ValueError: The hooks do not fire once each in the order of the layers, their shapes are not those of heads or differ between layers, keys come
            after rotary embedding, or what the hooks return is not read.
    """
    order: list[tuple[int, str]] = []
    shapes: dict[str, set[tuple[int, ...]]] = {"keys": set(), "values": set()}
    noises: dict[tuple[int, str], torch.Tensor] = {}
    first_keys: list[torch.Tensor] = []
    heard: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(0)

    def noise_like(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator).to(x)

    def nudge(layer: int, name: str) -> Any:
        def run(own: torch.Tensor) -> torch.Tensor:
            order.append((layer, name))
            shapes[name].add(tuple(own.shape))
            if layer == 0 and name == "keys":
                first_keys.append(own.detach())
            noises[layer, name] = noise_like(own).requires_grad_()
            return own + noises[layer, name]

        return run

    def listen(z: torch.Tensor) -> None:
        heard.append((z * noise_like(z)).float().sum())

    functions = {
        f"blocks.{layer}.attn.hook_{name[0]}": nudge(layer, name) for layer in points for name in shapes
    }
    functions |= {f"blocks.{layer}.attn.hook_z": listen for layer in points}
    try:
        with evaluating(model), torch.inference_mode(False), torch.enable_grad(), hooked(model, functions):
            model(_probe_tokens(model), return_type="logits")
            loudness = torch.stack(heard).sum()
    except (ValueError, RuntimeError, IndexError) as error:
        raise _refusal(
            model, f"it cannot be run with its hooks on {_PROBE} tokens ({type(error).__name__}: {error})"
        ) from error
    n_kv_heads = _require_heads(model, order, shapes, len(points))
    keys = first_keys[0]
    rotary = model.cfg.positional_embedding_type == "rotary" and keys.shape[1] > 2
    if rotary and not torch.allclose(keys[:, 0], keys[:, 2], rtol=1e-3, atol=1e-3):
        raise _refusal(
            model, "its hook_k fires after rotary embedding, and keys of several layers must be mixed before"
        )
    gradients = _gradients(loudness, list(noises.values()))
    for (layer, name), gradient in zip(noises, gradients, strict=True):
        if gradient is None or not bool(gradient.any()):
            raise _refusal(
                model, f"what a hook returns at layer {layer}'s {name} is not what attention reads there"
            )
    return n_kv_heads


def _gradients(loudness: torch.Tensor, noises: Sequence[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    """Give the gradient in each noise, None where there is none."""
    if not loudness.requires_grad:
        return (None,) * len(noises)
    return torch.autograd.grad(loudness, noises, allow_unused=True)


def _require_heads(
    model: Any, order: list[tuple[int, str]], shapes: Mapping[str, set[tuple[int, ...]]], n_layers: int
) -> int:
    """Give the number of heads if the hooks have fired as they must."""
    for name in shapes:
        layers = [layer for layer, of in order if of == name]
        if layers != list(range(n_layers)):
            raise _refusal(
                model,
                f"its layers' {name} come in the order {layers}, where {n_layers} layers were to come, each once",
            )
    sizes = sorted(shapes["keys"]), sorted(shapes["values"])
    heads = {shape[2] for of in sizes for shape in of if len(shape) == 4}
    if any(len(of) != 1 or len(of[0]) != 4 for of in sizes) or len(heads) != 1:
        raise _refusal(
            model,
            f"its keys have the shapes {sizes[0]} and its values {sizes[1]}, where [batch, pos, heads, d_head] with the same heads in every layer is needed",
        )
    return heads.pop()


def _probe_tokens(model: Any) -> torch.Tensor:
    """Two tokens in turns, so that keys of one token can be compared at two positions."""
    a = model.cfg.d_vocab // 2
    n = min(_PROBE, model.cfg.n_ctx)
    return torch.tensor([[a, max(a - 1, 0)] * _PROBE])[:, :n].to(next(model.parameters()).device)


def _refusal(model: Any, why: str) -> ValueError:
    return ValueError(
        f"LIMe cannot be attached to this {type(model).__name__}: {why}. Give a HookedTransformer or a TransformerBridge of a model in which every layer has "
        "ordinary multi-head or grouped-query attention."
    )

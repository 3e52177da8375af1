"""The keys and values that the heads of a model compute, before routing, batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.language_model import evaluating


@dataclass(frozen=True, eq=False)
class Buffers:
    """What the model computed on one batch."""

    tokens: torch.Tensor
    """Token ids [batch, pos], on the CPU."""
    first: int
    """Number of the first sequence."""
    keys: torch.Tensor
    """Un-routed keys, before rotary embedding, [batch, pos, layer, head, d_head], float32."""
    values: torch.Tensor
    """Un-routed values, of the same shape."""


def read_buffers(
    model: Any,
    routers: Any,
    tokens: torch.Tensor,
    *,
    batch_size: int,
    autocast: bool,
    show_progress: bool,
    description: str,
) -> Iterator[Buffers]:
    """Run a model with its routers over sequences of tokens.

    Args:
        model: The model.
        routers: The LimeRouters that are attached to it.
        tokens: Token ids [n, pos].
        batch_size: Sequences per forward pass.
        autocast: Run the model in bfloat16.
        show_progress: Show a progress bar.
        description: What the bar is of.

    Raises:
        RuntimeError: The routers recorded nothing of a layer.
        ValueError: A key or value is NaN or infinite.
    """
    device, first = next(model.parameters()).device, 0
    for batch in tqdm(
        tokens.split(min(batch_size, len(tokens))), desc=description, disable=not show_progress
    ):
        with (
            torch.no_grad(),
            evaluating(model),
            routers.recording() as memory,
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast),
        ):
            model(batch.to(device), return_type="logits")
        keys, values = (
            _stacked(name, getattr(memory, name), routers.n_layers, batch) for name in ("keys", "values")
        )
        yield Buffers(batch, first, keys, values)
        first += len(batch)


def _stacked(name: str, recorded: Any, n_layers: int, batch: torch.Tensor) -> torch.Tensor:
    try:
        layers = [recorded[layer] for layer in range(n_layers)]
    except (KeyError, IndexError) as error:
        raise RuntimeError(
            f"The routers recorded no {name} of layer {error.args[0]!r}: their hooks never fired there. Are they paused, or were the model's hooks reset? "
            "Attach them again with attach_lime(model, routers)."
        ) from error
    stacked = torch.stack([layer.detach().float() for layer in layers], dim=2)
    if stacked.shape[:2] != batch.shape:
        raise RuntimeError(
            f"The routers recorded {name} for {tuple(stacked.shape[:2])} tokens, but the model was given {tuple(batch.shape)}. Let nothing else run it meanwhile."
        )
    if not bool(stacked.isfinite().all()):
        strange = next(i for i, layer in enumerate(layers) if not bool(layer.isfinite().all()))
        raise ValueError(
            f"The {name} of layer {strange} have NaN or infinity in them on these texts. Run the model in float32, or look for what diverged."
        )
    return stacked

"""From features of the attention's heads (`hook_z`) to directions of the residual stream."""

from typing import Any

import torch


def through_output_weights(rows: torch.Tensor, hook_name: str, layer: int, model: Any) -> torch.Tensor:
    """Map decoder rows of an SAE on all heads by what the layer does with its heads before it adds them to the stream.

    That is the output weights, and the norm's weight where the architecture has a norm after its attention, as Gemma 2 has. The
    norm's division by a token's length changes no direction.

    Args:
        rows: [d_sae, n_heads · d_head].
        hook_name: The SAE's hook, for messages.
        layer: The layer.
        model: The language model.

    Returns:
        [d_sae, d_model], float32, unit rows (or zeros), on the device of `rows`.

    Raises:
        ValueError: The widths do not fit, or the norm's weight cannot be told from the model.
    """
    block = model.blocks[layer]
    weights = block.attn.W_O.detach().flatten(end_dim=1).to(rows.device, torch.float32)
    if weights.shape[0] != rows.shape[1]:
        raise ValueError(
            f"The SAE at {hook_name!r} has rows of width {rows.shape[1]}, but the heads of layer {layer} have {weights.shape[0]} dimensions together. It "
            "belongs to another model, or to one head alone. Give one of all heads of this model."
        )
    mapped = rows @ weights
    norm = getattr(block, "ln1_post", None)
    if norm is not None:
        scale = getattr(norm, "w", None)
        if scale is None and hasattr(norm, "original_component"):
            raise ValueError(
                f"Layer {layer} has a norm after its attention, whose weight TransformerBridge keeps in the model's own form. Give the model as a "
                "HookedTransformer."
            )
        if scale is not None:  # None: folded into what follows
            mapped = mapped * scale.detach().to(mapped.device, torch.float32)
    return torch.nn.functional.normalize(mapped, dim=1)

"""Interventions on a model's activations while a block lasts, in forward passes and while it generates."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from sae_lens_ext.steering.block import Block
from sae_lens_ext.steering.intervention import Intervention, flattened


@contextmanager
def steer(
    model: Any, *interventions: Intervention, attention_mask: torch.Tensor | None = None
) -> Generator[None, None, None]:
    """Change a model's activations while the block lasts.

        with steer(model, AddFeature(sae, 1234, strength=8.0) + AblateFeature(sae, 77)):
            model.generate("The weather today is", max_new_tokens=20)

    It acts in forward passes, `run_with_cache` (which shows the changed activations), `run_with_hooks`, `generate`, `generate_stream`
    and a bridge's `hf_generate`, with a key-value cache exactly as without. Interventions at one hook are all computed from the
    activations as they arrive there and their changes are added, so that their order does not matter; one SAE encodes once for all of
    them. Two that set one feature (`ClampFeature`, `AblateFeature`, `ScaleFeature` with 0) may not meet at one token. Of nested blocks the inner one acts on what the outer one has changed. Where an SAE is attached to the model at
    the hook, they act on what it puts out, after its error term.

    All tokens are changed, **BOS** too, unless `positions` say otherwise. SAEs are trained without BOS, and on its activation, which is
    unlike any other, many features fire: give interventions on live features `positions=slice(1, None)` to leave BOS alone.

    **Positions** are those of the whole sequence: 0 is its first token, also when the model is run token by token on a cache.
    Negative positions count from the end of the prompt: -1 is the prompt's last token, whatever is generated after it. A slice may go
    on into what is generated: `slice(-1, None)` is the last token of the prompt and all generated ones. A mask [batch, prompt] of
    bools selects columns of the prompt. **Padding** counts for nothing and is never touched, as far as it is known: from
    `attention_mask` here, or else from the mask that the model's forward pass is given.

    **Phases**: under `generate` and its like, the prompt and what is generated after it. In plain forward passes everything is prompt, unless
    `attention_mask` is given here: its width says where the prompt ends, for a decoding loop of your own, with or without a cache.

    Copying the model inside the block (`copy.deepcopy`) is not supported: the copy would have the block's hooks, for good.

    Args:
        model: A HookedTransformer, HookedSAETransformer, TransformerBridge or SAETransformerBridge.
        interventions: What to do; at least one.
        attention_mask: Which tokens of the prompts are real (1) and which padding (0), [batch, prompt], for every prompt that
            runs in the block.

    Raises:
        ValueError: An intervention is none, the model has no such hook, or an attached transcoder reads it; a vector or an SAE has another
            width than the residual stream it acts at; two interventions set one feature at the same tokens; the mask is none. While
            the model runs: a vector or an SAE has another width than the activations of another hook, two interventions set one
            feature at one token, a mask has another shape than the batch, or where the prompt ends is needed and not known.
        NotImplementedError: While the model runs: it generates in a way that does not go through the sequence token by token, or with
            a cache of unknown kind.
        RuntimeError: The block ended, but an intervention acted on no token: its hook never fired, or its positions or phases were
            never reached. While the model runs: a hook fired outside a forward pass, somebody removed the hooks, or a hook does
            not fire under `generate`.
    """
    block = Block(model, flattened("steer", interventions), _real_tokens(attention_mask))
    try:
        block.enter()
        yield
    finally:
        block.leave()
    block.require_acted()


def _real_tokens(attention_mask: Any) -> torch.Tensor | None:
    """Give the mask as bools on the CPU.

    Raises:
        ValueError: It is none, or a row has no token.
    """
    if attention_mask is None:
        return None
    if (
        not isinstance(attention_mask, torch.Tensor)
        or attention_mask.ndim != 2
        or attention_mask.numel() == 0
    ):
        what = (
            tuple(attention_mask.shape)
            if isinstance(attention_mask, torch.Tensor)
            else type(attention_mask).__name__
        )
        raise ValueError(
            f"steer was given an attention_mask that is {what}. Give a tensor [batch, prompt] of 0 and 1."
        )
    if not ((attention_mask == 0) | (attention_mask == 1)).all():
        raise ValueError(
            "steer was given an attention_mask with other numbers than 0 and 1. Give 1 for tokens and 0 for padding."
        )
    real = attention_mask.detach().cpu() != 0
    if not real.any(dim=1).all():
        raise ValueError("steer was given an attention_mask with a row of padding alone. Leave that row out.")
    return real

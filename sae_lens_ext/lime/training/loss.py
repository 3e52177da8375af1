"""The cross-entropy of a language model on sequences of tokens."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.language_model import evaluating
from sae_lens_ext.language_model.weights_hash import weights_hash
from sae_lens_ext.lime.training.loss_result import LanguageModelLoss
from sae_lens_ext.lime.training.settings import require_count
from sae_lens_ext.lime.training.token_groups import IGNORED, TokenGroup, groups_hash, token_groups
from sae_lens_ext.number_checks import require_bool

_CALLER = "language_model_loss"


def language_model_loss(
    model: Any,
    tokens: torch.Tensor | Sequence[torch.Tensor],
    *,
    loss_mask: torch.Tensor | Sequence[torch.Tensor] | None = None,
    batch_size: int = 16,
    autocast: bool = False,
    show_progress: bool = True,
) -> LanguageModelLoss:
    """Measure how well a model predicts tokens: the cross-entropy of each sequence, nats.

    The model runs as it is, with whatever is attached to it, without dropout. The logits are taken to float32.

    Args:
        model: A HookedTransformer or TransformerBridge.
        tokens: Token ids [n, t], or groups of such with another t each.
        loss_mask: Whether the prediction OF a token counts, bool, of the tokens' shapes; that of the first token never does. None for all others.
        batch_size: Sequences run at once.
        autocast: Whether to run the model in bfloat16 where torch.autocast does.
        show_progress: Whether to show a bar.

    Returns:
        The losses, sequence by sequence, in the order given, groups one after the other.

    Raises:
        ValueError: Tokens or mask have another shape or dtype, a token is not in the vocabulary, a sequence is longer than the model reads, none of a
            sequence's predictions counts, or a loss is NaN or infinite.
    """
    batch_size = require_count("batch_size", batch_size, 1, _CALLER)
    require_bool(_CALLER, "autocast", autocast)
    if not isinstance(model, torch.nn.Module):
        raise ValueError(
            f"{_CALLER} was given {type(model).__name__} as the model. Give a HookedTransformer or a TransformerBridge."
        )
    groups = token_groups(_CALLER, model, tokens, loss_mask)
    losses = group_losses(model, groups, batch_size, autocast=autocast, show_progress=show_progress)
    wrong = np.flatnonzero(~np.isfinite(losses))
    if len(wrong):
        raise ValueError(
            f"The model's loss on sequence {wrong[0]} is {losses[wrong[0]]}, and not finite on {len(wrong)} of {len(losses)} sequences. Look at its weights, or run it "
            "without autocast."
        )
    return LanguageModelLoss(
        losses,
        np.concatenate([group.counts.numpy() for group in groups]),
        {
            **versions(),
            "model_name": getattr(getattr(model, "cfg", None), "model_name", None),
            "model_weights": weights_hash(model),
            "tokens_sha256": groups_hash(groups),
            "autocast": autocast,
        },
    )


@torch.no_grad()
def group_losses(
    model: Any,
    groups: Sequence[TokenGroup],
    batch_size: int,
    *,
    autocast: bool = False,
    show_progress: bool = False,
) -> NDArray[np.float64]:
    """Give the summed loss of every sequence, [n], nats, see `language_model_loss`."""
    from tqdm.auto import tqdm

    device = next(model.parameters()).device
    found: list[torch.Tensor] = []
    batches = [
        (tokens, targets)
        for group in groups
        for tokens, targets in zip(
            group.tokens.split(min(batch_size, len(group.tokens))),
            group.targets.split(min(batch_size, len(group.tokens))),
            strict=True,
        )
    ]
    with evaluating(model), mixed_precision(device, enabled=autocast):
        for tokens, targets in tqdm(batches, desc="loss", disable=not show_progress):
            of_tokens = cross_entropy(model, tokens.to(device), targets.to(device), "none")
            found.append(of_tokens.view(len(tokens), -1).cpu().double().sum(dim=1))
    return torch.cat(found).numpy()


def cross_entropy(
    model: Any, tokens: torch.Tensor, targets: torch.Tensor, reduction: str = "sum"
) -> torch.Tensor:
    """Give −ln p of the targets, nats, 0 where they are `IGNORED`: the sum, or each of [batch · pos] for "none"."""
    logits = model(tokens, return_type="logits")
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction=reduction
    )


def mixed_precision(device: torch.device, *, enabled: bool) -> AbstractContextManager[Any]:
    """Give the block in which a model runs in bfloat16 where that does little harm; nothing happens unless `enabled`."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if enabled else nullcontext()


def mean_loss(losses: NDArray[np.float64], groups: Sequence[TokenGroup]) -> float:
    """Give the mean over counted predictions, nats; NaN if one is."""
    return math.fsum(losses) / sum(int(group.counts.sum()) for group in groups)

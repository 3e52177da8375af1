"""Sequences of tokens to train on, in groups of one length, with which of their predictions count."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

IGNORED = -100
"""The target of a prediction that does not count; cross_entropy's own mark."""


@dataclass(frozen=True, eq=False)
class TokenGroup:
    """Sequences of one length."""

    tokens: torch.Tensor
    """Token ids [n, t], int64, on the CPU."""
    targets: torch.Tensor
    """The token that each position has to predict, [n, t], int64; `IGNORED` where the prediction does not count, as at the last position."""
    counts: torch.Tensor
    """Predictions of each sequence that count, [n], int64, at least 1 each."""


def token_groups(
    caller: str, model: Any, tokens: Any, loss_mask: Any = None, *, what: str = "tokens"
) -> tuple[TokenGroup, ...]:
    """Check tokens that a user gave, and give them as groups.

    Args:
        caller: The function they were given to, for messages.
        model: What shall read them; one that does not say its vocabulary or context is not asked.
        tokens: Token ids [n, t], or a sequence of such groups.
        loss_mask: Which predictions count, bool of the same shape or shapes; None for all but that of the first token.
        what: What the tokens are called, for messages.

    Raises:
        ValueError: Something has another shape or dtype, a token is not in the vocabulary, a sequence is longer than the model reads, or none of its
            predictions counts.
    """
    groups = _tensors(caller, tokens, what, "an integer tensor [n, t], or a list of such groups")
    masks = [None] * len(groups)
    if loss_mask is not None:
        masks = _tensors(
            caller, loss_mask, f"the loss mask of {what}", "a bool tensor shaped as the tokens are"
        )
        if [mask.shape for mask in masks] != [group.shape for group in groups]:
            raise ValueError(
                f"{caller} was given {what} of the shapes {_shapes(groups)} and a loss mask of {_shapes(masks)}. Give a mask for each group, of its shape."
            )
    return tuple(_group(caller, model, group, mask, what) for group, mask in zip(groups, masks, strict=True))


def split_validation(caller: str, validation: Any) -> tuple[Any, Any]:
    """Give the tokens and the loss mask of what is given as validation: tokens, or a pair of both.

    Raises:
        ValueError: It is a pair of something else.
    """
    if isinstance(validation, tuple) and len(validation) == 2 and _is_mask(validation[1]):
        return validation
    if isinstance(validation, tuple) and len(validation) == 2 and validation[1] is None:
        return validation[0], None
    if _is_mask(validation):
        raise ValueError(
            f"{caller} was given a mask as validation. Give tokens, or a pair of tokens and loss mask."
        )
    return validation, None


def groups_hash(groups: Sequence[TokenGroup]) -> str:
    """Give the SHA-256 of what is read and what counts, in hexadecimal digits."""
    digest = hashlib.sha256()
    for group in groups:
        digest.update(repr(tuple(group.tokens.shape)).encode())
        digest.update(group.tokens.numpy().tobytes())
        digest.update(group.targets.numpy().tobytes())
    return digest.hexdigest()


def _is_mask(given: Any) -> bool:
    first = given[0] if isinstance(given, (list, tuple)) and given else given
    return isinstance(first, torch.Tensor) and first.dtype == torch.bool


def _tensors(caller: str, given: Any, what: str, wanted: str) -> list[torch.Tensor]:
    groups = [given] if isinstance(given, torch.Tensor) else given
    if not isinstance(groups, Sequence) or isinstance(groups, str) or not groups:
        raise ValueError(f"{caller} was given {type(given).__name__} as {what}. Give {wanted}.")
    for group in groups:
        if not isinstance(group, torch.Tensor) or group.ndim != 2 or not len(group):  # pyright: ignore[reportUnnecessaryIsInstance]
            shape = f" of shape {list(group.shape)}" if isinstance(group, torch.Tensor) else ""  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"{caller} was given {type(group).__name__}{shape} in {what}. Give {wanted}.")
    return list(groups)


def _group(caller: str, model: Any, tokens: torch.Tensor, mask: torch.Tensor | None, what: str) -> TokenGroup:
    if tokens.dtype == torch.bool or tokens.is_floating_point() or tokens.is_complex():
        raise ValueError(f"{caller} was given {what} of dtype {tokens.dtype}. Give token ids, int64.")
    if tokens.is_meta or (mask is not None and mask.is_meta):
        raise ValueError(
            f"{caller} was given {what}, or their loss mask, on the meta device, without its numbers. Give token ids, int64."
        )
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(
            f"{caller} was given a loss mask of dtype {mask.dtype}. Give bool: whether the prediction of that token counts."
        )
    tokens = tokens.detach().to("cpu", torch.int64, copy=True).contiguous()
    if tokens.shape[1] < 2:
        raise ValueError(
            f"{caller} was given {what} of one token each, of which there is nothing to predict. Give sequences of at least 2 tokens."
        )
    cfg = getattr(model, "cfg", None)
    longest, vocabulary = getattr(cfg, "n_ctx", None), getattr(cfg, "d_vocab", None)
    if isinstance(longest, int) and tokens.shape[1] > longest > 0:
        raise ValueError(
            f"{caller} was given {what} of {tokens.shape[1]} tokens a sequence, but this model reads {longest}. Give shorter sequences."
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or (isinstance(vocabulary, int) and high >= vocabulary > 0):
        raise ValueError(
            f"{caller} was given {what} with the token id {low if low < 0 else high}. This model's vocabulary has the ids 0 to {(vocabulary or 0) - 1}; give these."
            if isinstance(vocabulary, int)
            else f"{caller} was given {what} with the token id {low}. Give ids of at least 0."
        )
    targets = torch.full_like(tokens, IGNORED)
    following = tokens[:, 1:]
    targets[:, :-1] = following if mask is None else following.masked_fill(~mask.cpu()[:, 1:], IGNORED)
    counts = (targets != IGNORED).sum(dim=1)
    if not bool((counts > 0).all()):
        raise ValueError(
            f"{caller} was given {what} with a sequence (number {int((counts == 0).nonzero()[0])} of its group) none of whose predictions counts; that of its "
            "first token never does. Leave such sequences out."
        )
    return TokenGroup(tokens, targets, counts)


def _shapes(tensors: Sequence[torch.Tensor]) -> str:
    return ", ".join(str(list(t.shape)) for t in tensors)

"""What one forward pass is over, read off the arguments that the model is called with."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_ext.steering.generation import Generation


@dataclass(frozen=True, eq=False)
class RunningPass:
    """A forward pass that is under way."""

    first: int
    """Column of its first token: how many tokens the key-value cache holds."""
    shape: tuple[int, int] | None
    """Rows and tokens; None while texts are not tokenised yet."""
    real: torch.Tensor | None
    """Which columns the model was told are tokens, [batch, first + n_tokens], bool, on the CPU; None if nothing is padding."""
    caches: bool
    """Whether a key-value cache is in use."""
    padded_texts: bool
    """Whether the model pads a list of texts, and does not say where."""
    generation: Generation | None
    """The call of generate() it belongs to."""


def running_pass(
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    generation: Generation | None,
    *,
    padded_texts: bool,
) -> RunningPass:
    """Say what a pass is over.

    Args:
        signature: Of the model's `forward`, a HookedTransformer's or a Hugging Face model's.
        args: What it is called with.
        kwargs: By name.
        generation: The call of generate() it belongs to.
        padded_texts: Whether somebody has made tokens of a list of texts for this pass.

    Raises:
        NotImplementedError: There is a cache of which it is not known how many tokens it holds.
    """
    given = _by_name(signature, args, kwargs)
    first, cache = _cached_tokens(given)
    tokens = next(
        (given[name] for name in ("input", "input_ids", "inputs_embeds") if given.get(name) is not None), None
    )
    shape = None
    if isinstance(tokens, torch.Tensor):
        shape = (1, tokens.shape[0]) if tokens.ndim == 1 else (tokens.shape[0], tokens.shape[1])
    real = None if shape is None else _told_real(given.get("attention_mask"), cache, first, shape[1])
    return RunningPass(
        first=first,
        shape=shape,
        real=real,
        caches=cache is not None or bool(given.get("use_cache")),
        padded_texts=real is None and (padded_texts or several_texts(tokens)),
        generation=generation,
    )


def _by_name(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give a call's arguments by name, those beyond the signature's names as well."""
    found = dict(signature.bind_partial(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found.update(found.pop(name, {}))
    return found


def _cached_tokens(given: dict[str, Any]) -> tuple[int, Any]:
    """Give how many tokens the key-value cache holds before the pass, and the cache."""
    cache = given.get("past_kv_cache")
    if cache is not None:
        return cache[0].past_keys.shape[1], cache
    cache = given.get("past_key_values")
    if cache is None:
        cache = given.get("cache_params")
    if cache is None:
        return 0, None
    if given.get("cache_params") is not None or not hasattr(cache, "get_seq_length"):
        raise NotImplementedError(
            f"steer() cannot tell how many tokens a cache of type {type(cache).__name__} holds. Generate with use_past_kv_cache=False."
        )
    return int(cache.get_seq_length()), cache


def _told_real(mask: Any, cache: Any, first: int, n_tokens: int) -> torch.Tensor | None:
    """Give which columns the model was told are tokens, [batch, first + n_tokens]; None if all, or if it was told nothing."""
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return None
    real = mask.detach().cpu() != 0
    if first and real.shape[1] == n_tokens:  # HookedTransformer keeps the mask of what is cached in the cache
        before = getattr(cache, "previous_attention_mask", None)
        if before is None or before.shape[1] != first:
            before = torch.ones(len(real), first)
        real = torch.cat([before.detach().cpu() != 0, real], dim=1)
    return None if real.shape[1] != first + n_tokens or bool(real.all()) else real


def several_texts(value: Any) -> bool:
    """Tell whether a model's input is a list of texts, which it pads."""
    return isinstance(value, (list, tuple)) and len(value) > 1

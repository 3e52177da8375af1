"""Reading texts of unequal length at once, and reading on from them, with a key-value cache where the model has one."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch


class Continuation(ABC):
    """Texts that a model has read, each row one, to be read on from.

    Texts are padded at the left, and the model is told so: a row's numbers are those of its text alone. Gradients flow through what was read.
    """

    def __init__(self, model: Any, mask: torch.Tensor, last_logits: torch.Tensor) -> None:
        self.model = model
        self.mask = mask
        """Which columns are tokens (1) and which padding (0), [batch, pos], int64."""
        self.last_logits = last_logits
        """Logits of the next token, [batch, vocabulary]."""

    def go_on(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read the next tokens of every row.

        Args:
            tokens: Token ids [batch, n].

        Returns:
            Logits after each, [batch, n, vocabulary].
        """
        tokens = tokens.to(self.mask.device)
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], dim=1)
        logits = self._read(tokens)
        self.last_logits = logits[:, -1]
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some rows alone, or with several copies of them.

        Args:
            rows: Positions of rows, [n], in the order they shall have.
        """
        rows = rows.to(self.mask.device)
        self.mask, self.last_logits = self.mask[rows], self.last_logits[rows]
        self._keep(rows)

    def repeat(self, n: int) -> None:
        """Go on with n copies of every row, next to each other."""
        self.keep(torch.arange(len(self.mask)).repeat_interleave(n))

    @abstractmethod
    def _read(self, tokens: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def _keep(self, rows: torch.Tensor) -> None: ...


class _HookedTransformerContinuation(Continuation):
    def __init__(self, model: Any, tokens: torch.Tensor, mask: torch.Tensor) -> None:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        self._cache = TransformerLensKeyValueCache.init_cache(model.cfg, tokens.device, len(tokens))
        logits = model(tokens, return_type="logits", past_kv_cache=self._cache, attention_mask=mask)
        super().__init__(model, mask, logits[:, -1])

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(
            tokens,
            return_type="logits",
            past_kv_cache=self._cache,
            attention_mask=torch.ones_like(tokens),
        )

    def _keep(self, rows: torch.Tensor) -> None:
        self._cache.previous_attention_mask = self._cache.previous_attention_mask[rows]
        for entry in self._cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]


class _BridgeContinuation(Continuation):
    def __init__(self, model: Any, cache: Any, mask: torch.Tensor, last_logits: torch.Tensor) -> None:
        super().__init__(model, mask, last_logits)
        self._cache = cache

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        logits, self._cache = self.model(
            tokens,
            return_type="logits_and_cache",
            use_cache=True,
            past_key_values=self._cache,
            attention_mask=self.mask,
        )
        return logits

    def _keep(self, rows: torch.Tensor) -> None:
        self._cache.batch_select_indices(rows)


class _UncachedContinuation(Continuation):
    def __init__(
        self, model: Any, tokens: torch.Tensor, mask: torch.Tensor, last_logits: torch.Tensor
    ) -> None:
        super().__init__(model, mask, last_logits)
        self._tokens = tokens

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        self._tokens = torch.cat([self._tokens, tokens], dim=1)
        logits = self.model(self._tokens, return_type="logits", attention_mask=self.mask)
        return logits[:, -tokens.shape[1] :]

    def _keep(self, rows: torch.Tensor) -> None:
        self._tokens = self._tokens[rows]


def read_texts(model: Any, texts: Sequence[torch.Tensor], *, cached: bool = True) -> Continuation:
    """Run a model over texts, to go on from them.

    Args:
        model: A HookedTransformer or TransformerBridge.
        texts: Token ids of each, [n], at least one.
        cached: Keep keys and values, if the model can; without, every step runs over whole texts.

    Returns:
        The texts as rows, in their order.

    Raises:
        ValueError: There is no text, or an empty one.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if not texts or not all(len(text) for text in texts):
        raise ValueError(
            "There is a text without a token, or no text at all. A model needs one to start from: give token ids of each, at least one."
        )
    tokens, mask = left_padded(texts)
    device = next(model.parameters()).device
    tokens, mask = tokens.to(device), mask.to(device)
    if cached and _takes_kv_cache(model):
        return _HookedTransformerContinuation(model, tokens, mask)
    if cached and isinstance(model, TransformerBridge):
        logits, cache = model(tokens, return_type="logits_and_cache", use_cache=True, attention_mask=mask)
        if _has_rows(cache):
            return _BridgeContinuation(model, cache, mask, logits[:, -1])
    else:
        logits = model(tokens, return_type="logits", attention_mask=mask)
    return _UncachedContinuation(model, tokens, mask, logits[:, -1])


def _takes_kv_cache(model: Any) -> bool:
    """Tell whether it is a HookedTransformer, or a kind of one whose own `forward` passes everything on."""
    own = [vars(kind)["forward"] for kind in type(model).__mro__ if "forward" in vars(kind)]
    return any("past_kv_cache" in inspect.signature(forward).parameters for forward in own)


def _has_rows(cache: Any) -> bool:
    """Tell whether rows of a Hugging Face cache can be chosen: those of recurrent layers cannot."""
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(hasattr(layer, "batch_select_indices") for layer in layers)


def left_padded(texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Put texts of unequal length side by side, their ends aligned.

    Args:
        texts: Token ids of each, [n].

    Returns:
        Token ids [batch, longest], padded with 0 at the left, and which are tokens (1) or padding (0), both int64.
    """
    longest = max(map(len, texts))
    tokens = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, text in enumerate(texts):
        tokens[row, longest - len(text) :] = text
        mask[row, longest - len(text) :] = 1
    return tokens, mask

"""Completions of prompts, sampled alike with and without a steering, and how likely a text is to a model."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sae_lens.util import temporary_seed
from transformer_lens.utilities.lm_utils import lm_cross_entropy_loss

from sae_lens_ext.language_model import by_length, evaluating, require_context_fits, stop_tokens

_NOT_FINITE = (
    "The model gives NaN or infinity as logits, so that nothing can be sampled or measured. Steer less strongly, or look at the precision: "
    "float16 overflows where bfloat16 does not."
)


@dataclass(frozen=True)
class Batch:
    """Prompts of one length in tokens, so that no padding is needed."""

    rows: tuple[tuple[int, int], ...]
    """Of each row, the prompt's position and which of its samples it is."""
    tokens: torch.Tensor
    """The prompts' token ids, [batch, prompt], on the model's device."""
    seed: int
    """Of the samples."""


@dataclass(frozen=True)
class Sampled:
    """One completion."""

    prompt: int
    """Position of the prompt."""
    sample: int
    """Which of the prompt's samples, from 0."""
    tokens: tuple[int, ...]
    """Token ids, without the token that ended the text."""
    text: str
    """The text of these."""
    cross_entropy: float
    """Of the unsteered model on these tokens and the one that ended the text, given the prompt; mean, nats per token."""


@dataclass(frozen=True)
class Sampler:
    """A model and how to sample from it."""

    model: Any
    """A HookedTransformer or TransformerBridge with a tokenizer."""
    max_new_tokens: int
    """Tokens of a completion, at most."""
    temperature: float
    """Of the sampling; 0 takes the likeliest token."""
    top_p: float
    """Least probability, in sum, of the likeliest tokens that are sampled from."""

    def tokenize(self, texts: Sequence[str], room: int) -> list[torch.Tensor]:
        """Give the token ids of texts, BOS first, [n] each.

        Args:
            texts: The texts.
            room: Tokens that must fit after each.

        Raises:
            ValueError: A text is longer than the model reads.
        """
        found = [self.model.to_tokens(text, prepend_bos=True, truncate=False)[0] for text in texts]
        require_context_fits(self.model, max(map(len, found)) + room)
        return found

    def batches(
        self, prompts: Sequence[torch.Tensor], samples: int, batch_size: int, seed: int
    ) -> list[Batch]:
        """Put prompts of equal length together, in the order of their lengths.

        Args:
            prompts: Token ids, [n] each.
            samples: Completions of each.
            batch_size: Rows of a batch, at most.
            seed: From it each batch has its own.
        """
        rows = [(prompt, sample) for prompt in range(len(prompts)) for sample in range(samples)]
        groups = by_length(rows, [len(prompts[prompt]) for prompt, _ in rows], batch_size)
        seeds = np.random.SeedSequence(seed).generate_state(len(groups))
        return [
            Batch(tuple(group), torch.stack([prompts[prompt] for prompt, _ in group]), int(own))
            for group, own in zip(groups, seeds, strict=True)
        ]

    @torch.no_grad()
    def write(self, batch: Batch) -> torch.Tensor:
        """Sample a completion of each row of a batch, with the same random numbers each time, however the model is steered.

        Returns:
            Token ids of prompts and completions, [batch, prompt + new]; after the token that ended a text there is anything.

        Raises:
            ValueError: There is NaN or infinity in the logits.
        """
        stops = stop_tokens(self.model)
        with evaluating(self.model), temporary_seed(batch.seed), finite_logits(self.model):
            tokens = self.model.generate(
                batch.tokens,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                stop_at_eos=bool(stops),
                eos_token_id=stops or None,
                prepend_bos=True,
                use_past_kv_cache=True,
                return_type="tokens",
                verbose=False,
            )
        return tokens.clone()  # generate() gives a tensor of its inference mode

    @torch.no_grad()
    def read(self, batch: Batch, tokens: torch.Tensor) -> list[Sampled]:
        """Give what was written, and how likely it is to the model as it is now.

        Args:
            batch: The prompts.
            tokens: What `write` made of them.
        """
        n_prompt, stops = batch.tokens.shape[1], stop_tokens(self.model)
        losses = token_losses(self.model, tokens)[:, n_prompt - 1 :]
        found: list[Sampled] = []
        for (prompt, sample), new, loss in zip(
            batch.rows, tokens[:, n_prompt:].tolist(), losses.tolist(), strict=True
        ):
            length = next((i for i, token in enumerate(new) if token in stops), len(new))
            own = tuple(new[:length])
            counted = loss[: length + 1]  # with the token that ended the text, if one did
            found.append(
                Sampled(prompt, sample, own, self.model.tokenizer.decode(own), float(np.mean(counted)))
            )
        return found

    def log_probabilities(self, texts: Sequence[torch.Tensor], batch_size: int) -> list[float]:
        """Give the mean log-probability per token of each text, nats.

        Args:
            texts: Token ids, BOS first, [n] each, of at least 2 tokens.
            batch_size: Texts per forward pass, at most.
        """
        found = [0.0] * len(texts)
        for group in by_length(range(len(texts)), [len(text) for text in texts], batch_size):
            losses = token_losses(self.model, torch.stack([texts[i] for i in group]))
            for i, loss in zip(group, losses.mean(dim=1).tolist(), strict=True):
                found[i] = -loss
        return found


def token_losses(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Give the cross-entropy of every token but the first, given those before it, [batch, pos − 1], float32, nats.

    Raises:
        ValueError: There is NaN or infinity in the logits.
    """
    with evaluating(model), torch.no_grad():
        logits = model(tokens, return_type="logits")
    losses = lm_cross_entropy_loss(logits.float(), tokens.to(logits.device), per_token=True)
    if not torch.isfinite(losses).all():
        raise ValueError(_NOT_FINITE)
    return losses


@contextmanager
def finite_logits(model: Any) -> Generator[None, None, None]:
    """Raise ValueError as soon as the model's unembedding gives NaN or infinity while the block lasts."""

    def check(_: Any, __: Any, logits: torch.Tensor) -> None:
        if bool((torch.isnan(logits) | torch.isposinf(logits)).any()):
            raise ValueError(_NOT_FINITE)

    handle = model.unembed.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()

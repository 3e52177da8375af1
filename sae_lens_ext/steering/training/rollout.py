"""Sampling completions, every row by random numbers of its own, so that neither batch nor padding decides what is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sae_lens_ext.language_model import Continuation, evaluating, read_texts


@dataclass(frozen=True, eq=False)
class Rollout:
    """One completion."""

    prompt: torch.Tensor
    """Token ids the model was given, [n]."""
    tokens: torch.Tensor
    """Token ids it wrote, [m], the token that ended the text with them, if one did; at least one."""
    log_probs: torch.Tensor
    """Of these, under the temperature, as they were sampled, [m], nats."""
    entropies: torch.Tensor
    """Of the distributions they were sampled from, [m], nats."""
    ended: bool
    """Whether a stop token ended the text, or else the limit."""

    @property
    def text_tokens(self) -> torch.Tensor:
        """Token ids of the text, without the token that ended it."""
        return self.tokens[:-1] if self.ended else self.tokens


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled."""

    max_new_tokens: int
    """Tokens of a completion, at most, the one that ends it included."""
    temperature: float
    """The logits are divided by it; top_p is 1 and top_k unlimited, so that the distribution is the policy itself."""
    stop_tokens: tuple[int, ...]
    """Ids of tokens that end a text."""


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[torch.Tensor],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    cached: bool = True,
    keep_rows: bool = False,
) -> list[Rollout]:
    """Sample a completion in each row.

    A token is the one at which the cumulated probability, in the order of the ids, passes a uniform random number: the seed of a row says
    what is written in it, whatever rows are beside it. Rows that have ended are computed no longer.

    Args:
        model: A HookedTransformer or TransformerBridge, steered or not.
        prompts: Token ids of each row's prompt, [n]; one that stands in several rows next to each other is read once for all of them.
        seeds: Whole numbers of each row.
        sampling: How.
        cached: Whether to keep keys and values.
        keep_rows: Run all rows all the time, for a steering that is told the prompts' padding row by row.

    Returns:
        The completions, row by row.

    Raises:
        ValueError: The logits are NaN or infinite.
    """
    with evaluating(model):
        texts = (
            read_texts(model, prompts, cached=cached) if keep_rows else read_shared(model, prompts, cached)
        )
        uniform = np.stack([np.random.default_rng(seed).random(sampling.max_new_tokens) for seed in seeds])
        rows = torch.arange(len(seeds))
        written: list[list[tuple[int, float, float]]] = [[] for _ in seeds]
        ended = [False] * len(seeds)
        for step in range(sampling.max_new_tokens):
            log_probs = finite_log_probs(texts.last_logits, sampling.temperature)
            tokens = _at_quantile(log_probs.exp(), torch.from_numpy(uniform[rows.numpy(), step]))
            own = log_probs.gather(1, tokens[:, None])[:, 0].tolist()
            for row, *numbers in zip(
                rows.tolist(), tokens.tolist(), own, entropy(log_probs).tolist(), strict=True
            ):
                if not ended[row]:
                    written[row].append((numbers[0], numbers[1], numbers[2]))
                    ended[row] = numbers[0] in sampling.stop_tokens
            going = torch.tensor([not ended[row] for row in rows.tolist()])
            if step + 1 == sampling.max_new_tokens or not going.any():
                break
            if not keep_rows and not going.all():
                texts.keep(going.nonzero()[:, 0])
                rows, tokens = rows[going], tokens[going.to(tokens.device)]
            texts.go_on(tokens[:, None])
    return [_rollout(*row) for row in zip(prompts, written, ended, strict=True)]


def _rollout(prompt: torch.Tensor, written: Sequence[tuple[int, float, float]], ended: bool) -> Rollout:
    tokens, log_probs, entropies = zip(*written, strict=True)
    return Rollout(prompt, torch.tensor(tokens), torch.tensor(log_probs), torch.tensor(entropies), ended)


def read_shared(model: Any, prompts: Sequence[torch.Tensor], cached: bool) -> Continuation:
    """Read each row's prompt, one that stands in several rows next to each other only once."""
    different: list[torch.Tensor] = []
    row_of: list[int] = []
    for prompt in prompts:
        if not different or not torch.equal(different[-1], prompt):
            different.append(prompt)
        row_of.append(len(different) - 1)
    texts = read_texts(model, different, cached=cached)
    if len(different) < len(prompts):
        texts.keep(torch.tensor(row_of))
    return texts


def finite_log_probs(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Give log-probabilities [..., vocabulary], float32, nats.

    Raises:
        ValueError: The logits are NaN, or infinite but for tokens that are ruled out.
    """
    log_probs = (logits.float() / temperature).log_softmax(dim=-1)
    if torch.isnan(log_probs).any():
        raise ValueError(
            "The model gives NaN or infinity as logits, so that nothing can be sampled or measured. Steer less strongly or train with a lower "
            "learning rate, or look at the precision: float16 overflows where bfloat16 does not."
        )
    return log_probs


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Give the entropy of distributions, [...], nats, of their log-probabilities [..., vocabulary]."""
    return torch.special.entr(log_probs.exp()).sum(dim=-1)


def _at_quantile(probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Give the token at which the cumulated probability passes a number from 0 to 1, [batch]."""
    cumulated = probs.double().cumsum(dim=-1)
    wanted = uniform.to(cumulated)[:, None] * cumulated[:, -1:]
    tokens = torch.searchsorted(cumulated, wanted, right=True)[:, 0]
    return tokens.clamp(max=probs.shape[-1] - 1)

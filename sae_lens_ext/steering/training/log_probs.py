"""How likely completions are to a model, with gradients, each prompt read once for all of its completions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_ext.language_model import evaluating
from sae_lens_ext.steering.training.rollout import Rollout, finite_log_probs, read_shared


@dataclass(frozen=True, eq=False)
class Scored:
    """Distributions over the next token, at every token of some completions."""

    log_probs: torch.Tensor
    """[batch, longest, vocabulary], float32, nats."""
    tokens: torch.Tensor
    """Token ids written, [batch, longest], 0 behind the end."""
    written: torch.Tensor
    """Which of them were written, [batch, longest], bool."""

    def of_tokens(self) -> torch.Tensor:
        """Give the log-probabilities of the tokens written, [batch, longest], nats; 0 behind the end."""
        own = self.log_probs.gather(2, self.tokens[:, :, None])[:, :, 0]
        return torch.where(self.written, own, 0.0)


def score(model: Any, rollouts: Sequence[Rollout], temperature: float, *, cached: bool = True) -> Scored:
    """Teacher-force completions.

    Completions of one prompt share the pass over it, gradients too. It is exact: without a cache, each text by itself, the same numbers come out.

    Args:
        model: A HookedTransformer or TransformerBridge, steered or not.
        rollouts: Completions; those of one prompt next to each other.
        temperature: The one they were sampled under.
        cached: Whether to share what is read.

    Returns:
        What the model makes of them.

    Raises:
        ValueError: The logits are NaN or infinite.
    """
    tokens = torch.nn.utils.rnn.pad_sequence([rollout.tokens for rollout in rollouts], batch_first=True)
    lengths = torch.tensor([len(rollout.tokens) for rollout in rollouts])
    with evaluating(model):
        texts = read_shared(model, [rollout.prompt for rollout in rollouts], cached)
        logits = texts.last_logits[:, None]
        if tokens.shape[1] > 1:  # what is padded at the right comes after all that counts
            logits = torch.cat([logits, texts.go_on(tokens[:, :-1])], dim=1)
    device = logits.device
    written = torch.arange(tokens.shape[1]) < lengths[:, None]
    return Scored(finite_log_probs(logits, temperature), tokens.to(device), written.to(device))


def kl_divergences(policy: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Give KL(policy ‖ base) at every token, [batch, longest], nats, of log-probabilities [batch, longest, vocabulary]."""
    return (policy.exp() * (policy - base)).nan_to_num(0.0).sum(dim=-1)

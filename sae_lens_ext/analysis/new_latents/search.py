"""One pass over texts for many latents at once: how often each fires, how much it does, and where most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.top_contexts import TopContexts
from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.architectures.residual_stack import ResidualStackSAE
from sae_lens_ext.language_model import Site, read_activations


@dataclass(frozen=True)
class LatentReader:
    """Reads what latents do on contexts of tokens. Special tokens do not count: there they are 0."""

    model: Any
    """The language model."""
    stack: ResidualStackSAE
    """The SAE, with the domains switched on that shall be read."""
    site: Site
    """Where the SAE reads."""
    special: torch.Tensor
    """Ids of the special tokens, [n]."""
    autocast: bool
    """Run the model in bfloat16."""

    def counted(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tell which tokens [batch, pos] count, on the CPU."""
        return ~torch.isin(tokens, self.special)

    def activations(self, tokens: torch.Tensor, latents: Sequence[int]) -> torch.Tensor:
        """Give the activations [batch, pos, n] of n latents, by flat index, at tokens [batch, pos].

        Raises:
            ValueError: The activations at the hook have another width than the SAE reads.
        """
        stack = self.stack
        x = read_activations(self.model, tokens, self.site, autocast=self.autocast)
        if x.shape[-1] != stack.cfg.d_in:
            raise ValueError(
                f"The activations at {self.site.hook_name!r} have width {x.shape[-1]}, but the stack has d_in = "
                f"{stack.cfg.d_in}. It belongs to another model or hook: give those of the base."
            )
        with flat_heads(stack):
            acts = stack.encode(x.to(stack.device, stack.dtype))
        columns = torch.as_tensor(latents, device=acts.device)
        acts = acts[..., columns].to(torch.promote_types(acts.dtype, torch.float32))
        return acts * self.counted(tokens).to(acts.device)[..., None]


@dataclass(frozen=True)
class Findings:
    """What one pass over all texts found of n latents."""

    fired: Mapping[str, torch.Tensor]
    """By text: at how many tokens each latent is not 0, [n]."""
    n_tokens: Mapping[str, int]
    """By text: how many tokens count."""
    energy: torch.Tensor
    """Sum of each latent's squared activations over all texts, float64, [n]."""
    top: TopContexts
    """Where each latent fires most. Contexts are numbered through all texts, in their order."""


def search(
    reader: LatentReader,
    contexts: Mapping[str, torch.Tensor],
    latents: Sequence[int],
    *,
    n_contexts: int,
    batch_size: int,
    show_progress: bool,
) -> Findings:
    """Run the model once over all contexts; what is held does not grow with their number.

    Args:
        reader: Reads the latents.
        contexts: Token ids [n, context_size] by text.
        latents: Flat indices.
        n_contexts: How many top contexts to keep of each latent.
        batch_size: Contexts per forward pass.
        show_progress: Show a progress bar.

    Returns:
        What was found, in the order of `latents`.
    """
    device = reader.stack.device
    fired = {text: torch.zeros(len(latents), dtype=torch.long, device=device) for text in contexts}
    n_tokens = dict.fromkeys(contexts, 0)
    energy = torch.zeros(len(latents), dtype=torch.float64, device=device)
    top = TopContexts(len(latents), n_contexts, device)
    batches = [(text, batch) for text, tokens in contexts.items() for batch in tokens.split(batch_size)]
    first = 0
    for text, batch in tqdm(batches, desc="Searching contexts", disable=not show_progress):
        acts = reader.activations(batch, latents)
        fired[text] += (acts != 0).sum(dim=(0, 1))
        n_tokens[text] += int(reader.counted(batch).sum())
        energy += acts.square().sum(dim=(0, 1), dtype=torch.float64)
        top.add(acts, first)
        first += len(batch)
    return Findings(fired, n_tokens, energy, top)


def reread(
    reader: LatentReader, tokens: torch.Tensor, latents: Sequence[int], *, batch_size: int
) -> torch.Tensor:
    """Run the model on a few contexts again, for the activations at all their tokens.

    Args:
        reader: Reads the latents.
        tokens: Token ids [n, context_size].
        latents: Flat indices.
        batch_size: Contexts per forward pass.

    Returns:
        Activations [n, context_size, n_latents], on the CPU.
    """
    parts = [reader.activations(batch, latents).cpu() for batch in tokens.split(batch_size)]
    return torch.cat(parts) if parts else torch.zeros(0, tokens.shape[1], len(latents))

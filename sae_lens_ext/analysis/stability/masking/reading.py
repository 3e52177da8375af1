"""What `masking_curve` reads once, so that any set of latents can be masked after it: errors, and who fired where."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from torch.nn.functional import embedding_bag

from sae_lens_ext.analysis.dictionaries import decoder_rows_used
from sae_lens_ext.analysis.splicing import (
    ForwardPasses,
    Reconstruction,
    reconstruct,
    require_finite,
    require_width,
)
from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.explained_variance import ExplainedVariance
from sae_lens_ext.language_model import Site, read_activations
from sae_lens_ext.ops.chunks import has_bags

TEXT = "held-out"
"""What messages call the text."""


def masked_sums_naive(
    token: torch.Tensor,
    latent: torch.Tensor,
    value: torch.Tensor,
    steps: torch.Tensor,
    rows: torch.Tensor,
    size: tuple[int, int],
) -> torch.Tensor:
    """Sum what growing sets of latents add to each token's reconstruction, with a dense vector of latents.

    Args:
        token: Which token each firing is of, [n_firings].
        latent: Which latent fires, [n_firings].
        value: a, its activation, [n_firings].
        steps: The first set that each latent is in, [d_sae]; not less than the number of sets if it is in none.
        rows: Decoder rows [d_sae, d_in].
        size: Number of tokens, number of sets.

    Returns:
        Σ a_i d_i over the latents of each set, [n_tokens, n_sets, d_in].
    """
    n_tokens, n_sets = size
    acts = rows.new_zeros(n_tokens, len(rows)).index_put_((token, latent), value)
    return torch.stack([(acts * (steps <= step)) @ rows for step in range(n_sets)], dim=1)


def masked_sums(
    token: torch.Tensor,
    latent: torch.Tensor,
    value: torch.Tensor,
    steps: torch.Tensor,
    rows: torch.Tensor,
    size: tuple[int, int],
) -> torch.Tensor:
    """Do as `masked_sums_naive` by reading each row that fires once for all sets."""
    n_tokens, n_sets = size
    step = steps[latent]
    masked = step < n_sets
    bag = token[masked] * n_sets + step[masked]
    order = bag.argsort(stable=True)
    counts = torch.bincount(bag, minlength=n_tokens * n_sets)
    added = embedding_bag(
        latent[masked][order],
        rows,
        counts.cumsum(0) - counts,
        per_sample_weights=value[masked][order],
        mode="sum",
    )
    return added.view(n_tokens, n_sets, -1).cumsum(dim=1)


@dataclass(frozen=True, eq=False)
class Reading:
    """What is kept of one batch, of its n tokens that count."""

    error: torch.Tensor
    """x − x̂, [n, d_in], float32."""
    token: torch.Tensor
    """Which of the n tokens each firing is of, [n_firings]."""
    latent: torch.Tensor
    """Which latent fires, [n_firings]."""
    value: torch.Tensor
    """What the latent's decoder row is multiplied by, [n_firings], float32: its activation, and the token's scale if it has one."""
    passes: ForwardPasses
    """Runs the model on the batch again."""
    x: torch.Tensor | None
    """The model's activations [batch, pos, d_in]; None where cross-entropy is not measured."""

    def masked(self, steps: torch.Tensor, rows: torch.Tensor, n_sets: int) -> torch.Tensor:
        """Give what growing sets of latents add to x̂, [n, n_sets, d_in]; see `masked_sums`."""
        return masked_sums(self.token, self.latent, self.value, steps, rows, (len(self.error), n_sets))

    def losses(self, site: Site, masked: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Run the model with x̂ − masked in place of its activations where they count; gives its losses [n_predictions]."""
        assert self.x is not None
        counted, new = self.passes.counted, self.x.clone()
        new[counted] = (new[counted].float() - (self.error + masked).to(new.device)).to(new.dtype)
        return self.passes.spliced(site, new)


class TextReader:
    """Reads batches of tokens, and sums what is the same whatever is masked.

    Args:
        model: The language model.
        name: Name of the SAE, for messages.
        sae: The SAE, in its inference form.
        site: Where it reads.
        special: Ids of the special tokens, which do not count, [n].
        autocast: Run the model in bfloat16.
    """

    def __init__(
        self, model: Any, name: str, sae: SAE[Any], site: Site, special: torch.Tensor, autocast: bool
    ) -> None:
        self.model, self.name, self.sae, self.site = model, name, sae, site
        self.special, self.autocast = special, autocast
        self.model_device = next(model.parameters()).device
        self.device = self.model_device if has_bags(self.model_device) else torch.device("cpu")
        self.rows = decoder_rows_used(name, sae).to(self.device)
        """What a latent of activation 1 adds to x̂, [d_sae, d_in], float32."""
        self.variance = ExplainedVariance()
        """Sums for EV with nothing masked."""
        self.fired = torch.zeros(sae.cfg.d_sae, dtype=torch.long)
        """On how many tokens each latent is not 0, [d_sae]."""
        self.activity = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
        """Sum of each latent's absolute activations, [d_sae]."""
        self.clean_losses = 0.0
        """Sum of the losses of the model left alone, over the batches with cross-entropy."""
        self.losses_with = 0.0
        """The same with x̂ in the place of its activations."""
        self.n_predictions = 0
        """How many losses each of them sums."""

    @property
    def n_tokens(self) -> int:
        """How many tokens count."""
        return self.variance.num_samples

    @property
    def ev(self) -> float:
        """Explained variance with nothing masked."""
        return self.variance.compute()

    def read(self, batch: torch.Tensor, with_losses: bool) -> Reading:
        """Run the model and the SAE once on tokens [batch, pos].

        Raises:
            ValueError: The activations are of another width, NaN or infinite, or the SAE's output is no sum of its latents.
        """
        counted = ~torch.isin(batch, self.special).to(self.model_device)
        passes = ForwardPasses(self.model, batch.to(self.model_device), counted, self.autocast)
        if with_losses:
            activations, losses = passes.clean({self.site})
            x = activations[self.site]
            self.clean_losses += float(losses.double().sum())
            self.n_predictions += len(losses)
        else:
            x = read_activations(self.model, batch, self.site, autocast=self.autocast)
        require_width(self.name, self.sae, self.site, x)
        made = reconstruct(self.sae, x)
        require_finite(self.name, TEXT, x, made.x_hat)
        if self.n_tokens == 0:
            self._require_sum(x[:1], made, counted[:1])
        self.variance.add_batch(made.x_hat[counted], x[counted])
        acts = made.acts[counted.to(made.acts.device)]
        self.fired += (acts != 0).sum(dim=0).cpu()
        self.activity += acts.abs().sum(dim=0, dtype=torch.float64).cpu()
        token, latent = acts.nonzero(as_tuple=True)
        value = acts[token, latent].float()
        if made.token_scale is not None:
            value = value * made.token_scale[counted.to(made.acts.device)][token, 0].float()
        reading = Reading(
            error=(x - made.x_hat)[counted].to(self.device, torch.float32),
            token=token.to(self.device),
            latent=latent.to(self.device),
            value=value.to(self.device),
            passes=passes,
            x=x if with_losses else None,
        )
        if with_losses:
            self.losses_with += float(reading.losses(self.site).double().sum())
        return reading

    def require_enough(self, with_losses: bool) -> None:
        """Raise ValueError if nothing that was read can be measured."""
        if self.n_tokens == 0 or (with_losses and self.n_predictions == 0):
            raise ValueError(
                f"The text {TEXT!r} holds no {'pair of tokens' if self.n_tokens else 'token'} that counts: special tokens do not. Give documents with "
                "text in them."
            )
        if not self.fired.any():
            raise ValueError(
                f"No latent of the SAE {self.name!r} fires on any of the {self.n_tokens:,} tokens, so that masking changes nothing. See that the model is "
                "the one it was trained on."
            )

    def mean_loss(self, losses: float) -> float | None:
        """Give cross-entropy in nats per token from a sum of losses; None if it is not measured."""
        return losses / self.n_predictions if self.n_predictions else None

    def explained_variance(self, squared_error: float) -> float:
        """Give SAELens' EV for another sum of squared errors than that with nothing masked."""
        masked = copy.copy(self.variance)
        masked.sum_squared_residual = squared_error
        return masked.compute()

    def _require_sum(self, x: torch.Tensor, made: Reconstruction, counted: torch.Tensor) -> None:
        """Raise ValueError unless x̂ without every second latent is what is left after subtracting their rows."""
        sae = self.sae
        off = torch.arange(sae.cfg.d_sae, device=made.acts.device) % 2 == 1
        with flat_heads(sae):
            acts = sae.encode(x.to(sae.device, sae.dtype)).to_dense()
            left = sae.decode(acts * ~off).to(x.device, torch.float32)
        added = (made.acts[:1] * off).float() @ self.rows.to(made.acts.device)
        if made.token_scale is not None:
            added = added * made.token_scale[:1].float()
        added, x_hat = added.to(x.device), made.x_hat[:1]
        tolerance = 1e-3 if torch.finfo(sae.dtype).bits >= 32 else 3e-2
        allowed = tolerance * (x_hat.norm(dim=-1) + added.norm(dim=-1))
        if not ((x_hat - added - left).norm(dim=-1) <= allowed)[counted].all():
            raise _no_sum(self.name, sae)


def _no_sum(name: str, sae: SAE[Any]) -> ValueError:
    return ValueError(
        f"The SAE {name!r} ({sae.cfg.architecture()}) does not decode to a sum of its latents' decoder rows, so that masking a latent is not "
        "subtracting its row. masking_curve measures SAEs with a linear decoder; take off hooks that change what the SAE puts out."
    )


def split_batches(
    tokens: torch.Tensor, n_with_losses: int, batch_size: int
) -> Iterator[tuple[torch.Tensor, bool]]:
    """Give batches of contexts [n, context_size], and whether cross-entropy is measured on them: on the first `n_with_losses`."""
    for part, with_losses in ((tokens[:n_with_losses], True), (tokens[n_with_losses:], False)):
        if len(part):
            yield from ((batch, with_losses) for batch in part.split(batch_size))
